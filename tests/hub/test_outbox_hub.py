"""From the outbox to a real Hub on loopback: flushing, two at once, kills, and the command."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import get_session
from safetensors.numpy import save_file

from hfplug.cli.main import main
from hfplug.hub.deliver import Pace, flush_outbox
from hfplug.hub.outbox import Outbox
from hfplug.hub.outbox_entry import Entry
from hfplug.hub.parcel import pack

REPO = "alice/adapter"
WEIGHTS = "adapter_model.safetensors"
SCRIPT = Path(__file__).parent / "scripts" / "train_until_killed.py"
QUICK = Pace(first_wait=0.002, longest_wait=0.02, busy_wait=0.01, timeout=10.0)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Any) -> None:
    monkeypatch.setenv("HFPLUG_OUTBOX", str(tmp_path / "outbox"))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", hub.token)


@pytest.fixture
def put(tmp_path: Path, hub: Any) -> Any:
    """``put("a", "b")``: an entry for each name, with weights of its own."""
    import numpy

    def putting(*names: str, repo: str = REPO, endpoint: str | None = None, policy: Any = "every") -> list[Entry]:
        entries = []
        for name in names:
            folder = tmp_path / "adapters" / f"{repo.replace('/', '-')}-{name}"
            folder.mkdir(parents=True)
            config = {"peft_type": "LORA", "base_model_name_or_path": "google/flan-t5-small", "r": 2}
            (folder / "adapter_config.json").write_text(json.dumps(config))
            values = numpy.random.default_rng(list(name.encode())).standard_normal((8, 8)).astype("float32")
            save_file({"base_model.model.x.lora_A.weight": values}, folder / WEIGHTS, metadata={"format": "pt"})
            queue = Outbox().queue(repo, endpoint=endpoint or hub.endpoint)
            entries.append(queue.put(lambda files, f=folder: pack(f, files, repo_id=repo), message=name, policy=policy))
        return entries

    return putting


def history(hub: Any, repo: str = REPO) -> list[tuple[str, str]]:
    """Title and sum of the weights of each commit, oldest first, without the one that made the repo."""
    found = []
    for item in reversed(hub.api.list_repo_commits(repo)[:-1]):
        address = f"{hub.endpoint}/{repo}/resolve/{item.commit_id}/{WEIGHTS}"
        answer = get_session().get(address, headers={"authorization": f"Bearer {hub.token}"}, follow_redirects=True)
        found.append((item.title, hashlib.sha256(answer.raise_for_status().content).hexdigest()))
    return found


def sums(entries: list[Entry]) -> list[tuple[str, str]]:
    return [(entry.message, entry.files[WEIGHTS]["sha256"]) for entry in entries]


# ------------------------------------------------------------------------------------------------- flushing


def test_what_waits_arrives_in_order_byte_for_byte_and_the_outbox_says_in_which_commit(hub, put):
    entries = put("one", "two", "three")
    result = flush_outbox(pace=QUICK)
    assert (result.delivered, result.remaining) == (3, ())
    assert history(hub) == sums(entries)
    lines = Outbox().queues()[0].history()
    assert [line["commit"] for line in lines] == [c.commit_id for c in reversed(hub.api.list_repo_commits(REPO)[:-1])]
    head = {s.rfilename for s in hub.api.model_info(REPO).siblings}
    for name in head - {".gitattributes"}:
        content = get_session().get(f"{hub.endpoint}/{REPO}/resolve/main/{name}", follow_redirects=True).content
        assert hashlib.sha256(content).hexdigest() == entries[-1].files[name]["sha256"]


def test_an_answer_that_was_lost_makes_no_second_commit(hub, put):
    entries = put("one", "two")
    hub.faults.next(2, "lost", match="/commit/")
    assert flush_outbox(pace=QUICK).delivered == 2
    assert hub.faults.count("/commit/") == 2 and history(hub) == sums(entries)


def test_a_process_killed_between_the_commit_and_its_note_makes_no_second_commit(hub, put):
    entries = put("one", "two")
    queue = Outbox().queues()[0]
    flush_outbox(pace=QUICK)
    # As it was before the note: the entries are there, the Hub has them, nobody wrote it down.
    (queue.folder / "delivered.jsonl").unlink()
    again = put("one again", "two again")
    for old, new in zip(entries, again, strict=True):
        values = {**vars(new), "id": old.id}
        Entry(**values).write(new.folder)
    flush_outbox(pace=QUICK)
    assert history(hub) == sums(entries)


def test_one_repo_that_fails_does_not_hold_up_another(hub, put):
    put("one", repo="bob/adapter")
    put("one", "two", repo=REPO)
    result = flush_outbox(pace=QUICK)
    assert result.delivered == 2 and [entry.repo_id for entry in result.remaining] == ["bob/adapter"]
    assert "token may not do that" in result.remaining[0].error


def test_a_token_is_shown_to_no_other_hub_than_the_environments(hub, put, make_hub):
    other = make_hub("two")
    put("one", endpoint=other.endpoint)
    result = flush_outbox(pace=QUICK)
    assert (result.delivered, result.elsewhere, len(result.remaining)) == (0, 1, 1)
    assert other.faults.seen == []


def test_a_hub_that_is_away_is_given_up_when_the_time_is_up_and_nothing_is_lost(hub, put):
    entries = put("one", "two")
    hub.stop()
    assert len(flush_outbox(pace=QUICK, seconds=0.3).remaining) == 2
    hub.start()
    assert flush_outbox(pace=QUICK).delivered == 2
    assert history(hub) == sums(entries)


def test_two_processes_flushing_at_once_push_nothing_twice(hub, put, tmp_path):
    entries = put(*(f"number {n}" for n in range(12)))
    command = [sys.executable, "-m", "hfplug", "outbox", "flush"]
    environment = hub.environment(HFPLUG_OUTBOX=str(tmp_path / "outbox"), OMP_NUM_THREADS="1")
    runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sum(int(line.split()[0]) for line in said) == 12
    assert history(hub) == sums(entries)


# ---------------------------------------------------------------------------------------------------- kills


def check_kills(hub: Any, tmp_path: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kill trainings that push, flush, compare; returns how many left half an entry and how many a push."""
    environment = hub.environment(HFPLUG_OUTBOX=str(tmp_path / "outbox"), OMP_NUM_THREADS="1", HF_HUB_DISABLE_XET="1")
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(kills), str(seed)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60 + 30 * kills)
    half = len(list((tmp_path / "outbox").glob("*/.entry.new-*")))
    waiting = sum(bool(queue.entries()) for queue in Outbox().queues())
    result = flush_outbox(pace=QUICK, seconds=120 + 10 * kills)
    assert result.remaining == () and result.damaged == ()
    for number in range(kills):
        lines = (tmp_path / f"{number}.log").read_text().split()
        saved, inside = [line for line in lines if line != "in"], lines.count("in")
        try:
            arrived = history(hub, f"alice/kill-{number}")
        except Exception:
            arrived = []
        assert arrived == [(f"checkpoint-{n}", total) for n, total in enumerate(saved[: len(arrived)], start=1)]
        assert inside <= len(arrived) <= len(saved)
    assert list((tmp_path / "outbox").glob("*/.entry.new-*")) == []
    return half, waiting


def test_trainings_killed_at_random_moments_lose_nothing_and_push_nothing_twice(hub, tmp_path):
    check_kills(hub, tmp_path, 4, 1)


@pytest.mark.slow
def test_a_hundred_trainings_killed_at_random_moments(hub, tmp_path):
    half, waiting = check_kills(hub, tmp_path, 100, 7)
    assert half > 3 and waiting > 20


@pytest.mark.slow
def test_of_two_training_processes_one_pushes(hub, tmp_path):
    environment = hub.environment(
        HFPLUG_OUTBOX=str(tmp_path / "outbox"), OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = SCRIPT.with_name("train_and_push.py")
    subprocess.run([*torchrun, str(script), str(tmp_path / "run")], env=environment, check=True, timeout=240)
    weights = [tmp_path / "run" / f"checkpoint-{n}" / WEIGHTS for n in (1, 2, 3)]
    found = history(hub, "alice/two")
    assert [title for title, _ in found] == [
        "checkpoint-1",
        "checkpoint-2",
        "checkpoint-3",
        "The adapter after 3 steps",
    ]
    assert [total for _, total in found[:3]] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in weights]


@pytest.mark.slow
def test_a_run_that_fails_while_the_hub_hangs_ends_at_once_and_says_what_waits(hub, tmp_path):
    hub.faults.next(1000, "delay", seconds=600)
    environment = hub.environment(HFPLUG_OUTBOX=str(tmp_path / "outbox"), OMP_NUM_THREADS="1")
    command = [sys.executable, str(SCRIPT.with_name("train_and_push.py")), str(tmp_path / "run"), "3"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert run.returncode == 1 and "a mistake of the user's own" in run.stderr
    last = run.stderr.splitlines()[-1]
    assert "2 pushes to alice/two still in the outbox" in last and last.endswith("hfplug outbox flush")
    hub.faults.clear()
    assert [entry.message for entry in Outbox().queues()[0].entries()] == ["checkpoint-1", "checkpoint-2"]


# -------------------------------------------------------------------------------------------------- command


def test_the_list_says_what_waits_for_whom_how_long_and_why(hub, put, capsys):
    put("one", "two")
    Outbox().queues()[0].failed(Outbox().queues()[0].entries()[0], "the Hub is down")
    assert main(["outbox"]) == 0
    out = capsys.readouterr().out
    assert f"{REPO} (main) at {hub.endpoint}: 2 waiting" in out and "hfplug outbox flush" in out
    assert "tried 1 times; the Hub is down" in out and "/000002 " in out and " kB " in out


def test_an_empty_outbox_is_no_error(capsys):
    assert main(["outbox"]) == 0 and main(["outbox", "flush"]) == 0
    assert "Nothing waits in" in capsys.readouterr().out


def test_flush_says_what_it_sent_and_fails_while_something_waits(hub, put, capsys):
    put("one", "two")
    hub.faults.next(10_000, "413", match="/commit/")
    assert main(["outbox", "flush"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "0 delivered, 2 still waiting.\n"
    assert "too large" in captured.err and captured.err.count("\n") == 1
    hub.faults.clear()
    assert main(["outbox", "flush", "--repo", "alice/other"]) == 0
    assert main(["outbox", "flush", "--repo", REPO, "--timeout", "60"]) == 0
    assert "2 delivered, 0 still waiting." in capsys.readouterr().out


def test_flush_names_another_hub_that_pushes_wait_for(put, capsys):
    put("one", endpoint="http://127.0.0.1:1")
    assert main(["outbox", "flush"]) == 2
    assert "HF_ENDPOINT=http://127.0.0.1:1 hfplug outbox flush" in capsys.readouterr().err


def test_flush_fails_once_for_a_damaged_entry_and_says_where_it_is(hub, put, capsys):
    damaged, whole = put("one", "two")
    (damaged.folder / "files" / WEIGHTS).write_bytes(b"x")
    assert main(["outbox", "flush"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "1 damaged on this disk" in line and str(Outbox().queues()[0].set_aside()[0]) in line
    assert history(hub) == sums([whole]) and main(["outbox", "flush"]) == 0


def test_drop_moves_an_entry_aside_and_only_when_told_to(put, capsys, hub):
    one, two = put("one", "two")
    assert main(["outbox", "drop", "000001"]) == 2
    assert "--yes" in capsys.readouterr().err and len(Outbox().queues()[0].entries()) == 2
    assert main(["outbox", "drop", one.name, "--yes"]) == 0
    (place,) = Outbox().queues()[0].set_aside()
    assert (place / "files" / WEIGHTS).is_file() and str(place) in capsys.readouterr().out
    assert main(["outbox", "flush"]) == 0 and history(hub) == sums([two])


def test_drop_looks_only_among_what_goes_to_the_repo_that_is_named(put, capsys):
    put("one", repo="alice/other")
    put("one", repo=REPO)
    assert main(["outbox", "drop", "000001", "--yes"]) == 2 and "is in 2 queues" in capsys.readouterr().err
    assert main(["outbox", "drop", "000001", "--repo", "alice/third", "--yes"]) == 2
    assert "waits for alice/third" in capsys.readouterr().err
    assert main(["outbox", "drop", "000001", "--repo", REPO, "--yes"]) == 0
    assert [(q.repo_id, len(q.entries())) for q in Outbox().queues()] == [(REPO, 0), ("alice/other", 1)]


@pytest.mark.parametrize(
    "words",
    [
        ["drop"],
        ["flush", "000001"],
        ["drop", "000009", "--yes"],
        ["drip"],
        ["list", "--yes"],
        ["flush", "--yes"],
        ["--timeout", "5"],
        ["drop", "000001", "--yes", "--timeout", "5"],
        ["flush", "--timeout", "nan"],
        ["flush", "--timeout", "-1"],
    ],
)
def test_what_cannot_be_meant_is_refused_on_one_line(put, capsys, words):
    put("one")
    assert main(["outbox", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert len(Outbox().queues()[0].entries()) == 1
