"""Files and folders that are either the old ones or the new ones, whole, whenever the process is killed.

A file is written beside its target under a name of its own, flushed to the disk, and renamed over it. A
folder is built the same way and put in place with one system call: ``rename`` where there was nothing, and
on Linux ``renameat2(RENAME_EXCHANGE)`` where there was a folder, which swaps the two in one step. Where the
kernel or the file system cannot swap, two renames do it; a kill between them leaves the target missing for
the moment and both folders whole beside it, and ``recover`` (called whenever a folder is next opened or
written) puts the new one in its place.

Names used beside a target ``NAME`` (``ID`` is host, process and a number):

    .NAME.new-ID            being built; deleted once its process is dead
    .NAME.swap-INODE-ID     about to be swapped, or holding the old one just after; INODE is the inode of the
                            new one, so that one look tells which it is. A sweep never deletes the old one:
                            it becomes NAME.previous-N
    NAME.previous-N         an old folder that was kept
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
_FOREIGN_AGE_SECONDS = 24 * 3600
_numbers = itertools.count()
_later = threading.local()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write one file so that ``path`` holds the old bytes or all of the new ones.

    Args:
        path: The file. Its folder must exist. The mode of an existing file is kept.
        data: Its new content.
    """
    path = Path(path)
    sweep(path)
    temporary = make_temporary_name(path, "new")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            if not _is_later():
                os.fsync(file.fileno())
        if path.is_file():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # still there only if something failed
    sync_folder(path.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """``write_bytes`` of ``text`` in UTF-8; line ends are written as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """``write_text`` of ``value`` as JSON, indented by two spaces, with a line end at the end of the file.

    Raises:
        ValueError: ``value`` holds a number that JSON cannot hold (NaN, infinity).
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def make_temporary_name(target: Path, stage: str) -> Path:
    """A name beside ``target`` that no one else uses, for something at ``stage`` ("new", "swap-INODE")."""
    return target.with_name(f".{target.name}.{stage}-{_process_id()}-{next(_numbers)}")


def make_temporary_folder(target: str | os.PathLike[str]) -> Path:
    """An empty folder beside ``target`` to build its successor in; leftovers of dead processes go first."""
    target = _real(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    sweep(target)
    folder = make_temporary_name(target, "new")
    folder.mkdir()
    return folder


def replace_folder(new: Path, target: str | os.PathLike[str]) -> Path | None:
    """Put the complete folder ``new`` in place of ``target``.

    Args:
        new: A folder made by ``make_temporary_folder(target)``, complete and flushed (``sync_tree``).
        target: Where it belongs. May not exist, or be a folder.

    Returns:
        Where the old folder is now, or None if there was none. The caller keeps it (``keep_previous``) or
        deletes it; if it does neither because it is killed, the next sweep keeps it.
    """
    target = _real(target)
    if not os.path.lexists(target):
        os.rename(new, target)
        sync_folder(target.parent)
        return None
    shutil.copymode(target, new)
    swap = make_temporary_name(target, f"swap-{new.stat().st_ino}")
    os.rename(new, swap)
    if exchange(swap, target):
        sync_folder(target.parent)
        return swap
    old = make_temporary_name(target, "swap-0")
    os.rename(target, old)
    try:
        os.rename(swap, target)
    except OSError:
        os.rename(old, target)
        raise
    sync_folder(target.parent)
    return old


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths of one file system in one step.

    Returns:
        False, with nothing changed, if this system cannot do that.

    Raises:
        OSError: It can, and failed (for example because a path does not exist).
    """
    function = _renameat2()
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def keep_previous(old: Path, target: str | os.PathLike[str]) -> Path:
    """Rename the folder ``old`` to the first free ``NAME.previous-N`` beside ``target``, and return that."""
    target = _real(target)
    for number in itertools.count(1):
        kept = target.with_name(f"{target.name}.previous-{number}")
        if os.path.lexists(kept):
            continue
        os.rename(old, kept)
        sync_folder(target.parent)
        return kept
    raise AssertionError("unreachable")


def recover(target: str | os.PathLike[str]) -> None:
    """Put the new folder in place if a process was killed between the two renames of ``replace_folder``.

    Does nothing while ``target`` exists, which is always where folders can be swapped.
    """
    target = _real(target)
    if os.path.lexists(target) or not target.parent.is_dir():
        return
    for leftover in _leftovers(target, "swap"):
        if _is_new(leftover):
            # A live process that is between its two renames gets there itself; then this rename fails.
            with contextlib.suppress(OSError):
                os.rename(leftover, target)
            return


def sweep(target: str | os.PathLike[str]) -> None:
    """Clear what dead processes left beside ``target``: half-built files and folders, and nothing else.

    An old folder that a process was about to keep when it was killed is kept now.
    """
    target = Path(target)
    if not target.parent.is_dir():
        return
    for leftover in _leftovers(target, "new"):
        _delete(leftover)
    for leftover in _leftovers(target, "swap"):
        empty = leftover.is_dir() and not any(leftover.iterdir())
        if _is_new(leftover) or empty:
            _delete(leftover)
        else:
            keep_previous(leftover, target)


def is_temporary(name: str) -> bool:
    """Whether ``name`` is one that this module gives to something half-built."""
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def flushed_later() -> Iterator[None]:
    """Inside, this thread flushes nothing to the disk: for a folder that is being built, and flushed as a whole.

    Flushing a small file costs milliseconds, and one that is deleted or written again soon is flushed in vain.
    """
    _later.depth = getattr(_later, "depth", 0) + 1
    try:
        yield
    finally:
        _later.depth -= 1


def _is_later() -> bool:
    return bool(getattr(_later, "depth", 0))


def sync_tree(folder: Path) -> None:
    """Flush every file and folder under ``folder`` to the disk."""
    if _is_later():
        return
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if not os.path.islink(path) and os.path.isfile(path):
                # Windows flushes only what is open for writing; elsewhere a read-only file must do as well.
                with open(path, "rb" if os.name == "posix" else "rb+") as file:
                    os.fsync(file.fileno())
        sync_folder(Path(root))


_TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.(?P<stage>new|swap-(?P<inode>\d+))"
    r"-(?P<host>[0-9A-Za-z]+)-(?P<pid>\d+)-(?P<token>[0-9a-f]{8})-\d+",
    re.DOTALL,
)


def _leftovers(target: Path, stage: str) -> list[Path]:
    """Paths beside ``target`` at ``stage`` ("new" or "swap") whose process is dead, in the order of names."""
    found = []
    for name in sorted(os.listdir(target.parent)):
        match = _TEMPORARY.fullmatch(name)
        if match and match["name"] == target.name and match["stage"].startswith(stage):
            path = target.parent / name
            if _is_dead(match, path):
                found.append(path)
    return found


def _is_dead(match: re.Match[str], path: Path) -> bool:
    if match["host"] != _host():
        # Another machine (or container) on a shared disk: nothing can be asked, so only age tells.
        with contextlib.suppress(OSError):
            return time.time() - path.lstat().st_mtime > _FOREIGN_AGE_SECONDS
        return False
    pid = int(match["pid"])
    if pid == os.getpid():
        # A restarted container often gives the same number again; the token tells the two apart.
        return match["token"] != _process_id().rsplit("-", 1)[1]
    if os.name != "posix":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _is_new(swap: Path) -> bool:
    """Whether a swap folder still holds the new one (its inode is the one in its name)."""
    match = _TEMPORARY.fullmatch(swap.name)
    return match is not None and bool(match["inode"]) and swap.lstat().st_ino == int(match["inode"])


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # Another process may be sweeping the same leftover.
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _real(target: str | os.PathLike[str]) -> Path:
    """``target`` with links followed, so that a link to a folder stays a link and its folder is replaced."""
    return Path(os.path.realpath(target))


def sync_folder(folder: Path) -> None:
    """Flush the names that ``folder`` holds to the disk, so that a rename in it outlives a power cut."""
    if os.name != "posix" or _is_later():
        return  # folders cannot be opened elsewhere
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@functools.lru_cache(maxsize=1)
def _host() -> str:
    return re.sub(r"[^0-9A-Za-z]", "", socket.gethostname())[:32] or "host"


def _process_id() -> str:
    return f"{_host()}-{os.getpid()}-{_token(os.getpid())}"


@functools.lru_cache(maxsize=4)
def _token(pid: int) -> str:
    return secrets.token_hex(4)


@functools.lru_cache(maxsize=1)
def _renameat2() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function
