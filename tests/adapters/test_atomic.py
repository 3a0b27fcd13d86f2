"""Files and folders are replaced whole, leftovers of dead processes go, and a user's files stay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hfplug.adapters import atomic


def _read(folder: Path) -> str:
    return (folder / "a.txt").read_text()


def _fill(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text(text)
    return folder


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to replace a folder: the system call, and what systems without it do."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    elif not sys.platform.startswith("linux"):
        pytest.skip("only Linux swaps folders in one step")
    return str(request.param)


@pytest.fixture
def dead() -> str:
    """The part of a temporary name that says: a process of this machine that is gone."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    host = atomic.make_temporary_name(Path("x"), "new").name.split("-")[1]
    return f"{host}-{child.pid}-0123abcd-0"


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    for text in ("one", "two ü"):
        atomic.write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    atomic.write_json(tmp_path / "a.json", {"ü": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "ü": [\n    1,\n    null\n  ]\n}\n'
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.txt"]


def test_a_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    path.chmod(0o640)
    atomic.write_text(path, "two")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a.json", float("nan"))
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_a_failing_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic.write_text(tmp_path / "a.txt", "x")
    assert os.listdir(tmp_path) == []


def test_a_folder_goes_where_there_was_none(tmp_path: Path, way: str) -> None:
    target = tmp_path / "deep" / "adapter"
    new = _fill(atomic.make_temporary_folder(target), "new")
    assert atomic.replace_folder(new, target) is None
    assert _read(target) == "new"
    assert os.listdir(target.parent) == ["adapter"]


def test_a_folder_is_replaced_and_the_old_one_handed_back(tmp_path: Path, way: str) -> None:
    target = _fill(tmp_path / "adapter", "old")
    new = _fill(atomic.make_temporary_folder(target), "new")
    old = atomic.replace_folder(new, target)
    assert old is not None
    assert (_read(target), _read(old)) == ("new", "old")
    kept = atomic.keep_previous(old, target)
    assert kept == tmp_path / "adapter.previous-1"
    assert sorted(os.listdir(tmp_path)) == ["adapter", "adapter.previous-1"]


def test_previous_folders_are_numbered_on(tmp_path: Path) -> None:
    _fill(tmp_path / "adapter.previous-1", "first")
    kept = atomic.keep_previous(_fill(tmp_path / "x", "second"), tmp_path / "adapter")
    assert (kept.name, _read(tmp_path / "adapter.previous-1")) == ("adapter.previous-2", "first")


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path, way: str) -> None:
    real = _fill(tmp_path / "real", "old")
    link = tmp_path / "latest"
    link.symlink_to(real)
    atomic.replace_folder(_fill(atomic.make_temporary_folder(link), "new"), link)
    assert link.is_symlink() and _read(link) == _read(real) == "new"


def test_leftovers_of_dead_processes_are_swept_and_nothing_else(tmp_path: Path, dead: str) -> None:
    stays = [
        "adapter", "adapter.new-x", ".adapter.new-mine", ".adapter.new-a-1-notahexno-0", ".adapter2",
        f".other.new-{dead}", ".git",
    ]  # fmt: skip
    for name in stays:
        _fill(tmp_path / name, name)
    _fill(tmp_path / f".adapter.new-{dead}", "half")
    (tmp_path / f".adapter.new-{dead}1").write_text("half a file")
    alive = atomic.make_temporary_folder(tmp_path / "adapter")
    atomic.sweep(tmp_path / "adapter")
    assert sorted(os.listdir(tmp_path)) == sorted([*stays, alive.name])


def test_an_old_folder_that_was_about_to_be_kept_is_kept_by_the_next_sweep(tmp_path: Path, dead: str) -> None:
    target = _fill(tmp_path / "adapter", "new")
    inode = target.stat().st_ino
    _fill(tmp_path / f".adapter.swap-{inode}-{dead}", "old")
    atomic.sweep(target)
    assert _read(tmp_path / "adapter.previous-1") == "old"
    assert sorted(os.listdir(tmp_path)) == ["adapter", "adapter.previous-1"]


def test_a_new_folder_that_was_not_swapped_yet_goes(tmp_path: Path, dead: str) -> None:
    target = _fill(tmp_path / "adapter", "old")
    new = _fill(tmp_path / "x", "new")
    new.rename(tmp_path / f".adapter.swap-{new.stat().st_ino}-{dead}")
    atomic.sweep(target)
    assert os.listdir(tmp_path) == ["adapter"] and _read(target) == "old"


def test_a_kill_between_the_two_renames_is_put_right(tmp_path: Path, dead: str) -> None:
    new = _fill(tmp_path / "x", "new")
    new.rename(tmp_path / f".adapter.swap-{new.stat().st_ino}-{dead}")
    _fill(tmp_path / f".adapter.swap-0-{dead}", "old")
    atomic.recover(tmp_path / "adapter")
    assert _read(tmp_path / "adapter") == "new"
    atomic.sweep(tmp_path / "adapter")
    assert _read(tmp_path / "adapter.previous-1") == "old"


def test_a_restarted_container_with_the_same_process_number_is_another_process(tmp_path: Path, dead: str) -> None:
    host = dead.split("-")[0]
    _fill(tmp_path / f".adapter.new-{host}-{os.getpid()}-0123abcd-0", "half")
    atomic.sweep(tmp_path / "adapter")
    assert os.listdir(tmp_path) == []


def test_a_leftover_of_another_machine_goes_only_when_it_is_old(tmp_path: Path) -> None:
    young = _fill(tmp_path / ".adapter.new-elsewhere-1-0123abcd-0", "half")
    old = _fill(tmp_path / ".adapter.new-elsewhere-1-0123abcd-1", "half")
    os.utime(old, (0, 0))
    atomic.sweep(tmp_path / "adapter")
    assert young.exists() and not old.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux swaps folders in one step")
def test_linux_swaps_two_folders_in_one_step(tmp_path: Path) -> None:
    one, other = _fill(tmp_path / "one", "1"), _fill(tmp_path / "other", "2")
    assert atomic.exchange(one, other)
    assert (_read(one), _read(other)) == ("2", "1")
    with pytest.raises(OSError, match="No such file"):
        atomic.exchange(one, tmp_path / "absent")


def test_a_failed_second_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = _fill(tmp_path / "adapter", "old")
    new = _fill(atomic.make_temporary_folder(target), "new")
    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    rename: Callable[[Path, Path], None] = os.rename

    def fail(one: Path, other: Path) -> None:
        if Path(other) == target and ".swap-0-" not in str(one):
            raise OSError("no")
        rename(one, other)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="no"):
        atomic.replace_folder(new, target)
    assert _read(target) == "old"
