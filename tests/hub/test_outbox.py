"""The outbox on disk: whole entries, in order, that no process and no kill takes for something else."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hfplug.adapters.files import copy_file
from hfplug.errors import AdapterError, OutboxError
from hfplug.hub.outbox import Outbox, default_root
from hfplug.hub.outbox_entry import Entry
from hfplug.hub.outbox_queue import BusyError, Queue

HUB = "http://127.0.0.1:1"
SECRET = "hf_" + "a1B2c3D4e5F6g7H8i9J0" * 2


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Outbox(tmp_path / "outbox").queue("alice/adapter", endpoint=HUB)


def put(queue: Queue, content: str, **values: str) -> Entry:
    def fill(files: Path) -> None:
        (files / "adapter_model.safetensors").write_text(content)
        (files / "README.md").write_text(f"about {content}")

    return queue.put(fill, message=content, **values)


def contents(queue: Queue) -> list[str]:
    return [(entry.folder / "files" / "adapter_model.safetensors").read_text() for entry in queue.entries()]


# ---------------------------------------------------------------------------------------------------- where


def test_the_folder_is_the_environments_and_never_a_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HFPLUG_OUTBOX", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_root() == tmp_path / "mine"
    monkeypatch.delenv("HFPLUG_OUTBOX")
    assert default_root() == tmp_path / "state" / "hfplug" / "outbox"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_root() == tmp_path / "home" / ".local" / "state" / "hfplug" / "outbox"


def test_each_endpoint_repo_and_branch_has_a_queue_of_its_own(tmp_path):
    outbox = Outbox(tmp_path)
    places = [("alice/a", HUB, None), ("alice/b", HUB, None), ("alice/a", HUB + "2", None), ("alice/a", HUB, "dev")]
    for repo, endpoint, revision in places:
        put(outbox.queue(repo, endpoint=endpoint, revision=revision), "x")
    put(outbox.queue("alice/a", endpoint=HUB + "/", revision="main"), "y")
    assert sorted((q.repo_id, q.endpoint, q.revision, len(q.entries())) for q in outbox.queues()) == [
        ("alice/a", HUB, "dev", 1),
        ("alice/a", HUB, "main", 2),
        ("alice/a", HUB + "2", "main", 1),
        ("alice/b", HUB, "main", 1),
    ]


def test_a_password_in_the_address_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(OutboxError, match="HF_TOKEN"):
        Outbox(tmp_path / "outbox").queue("alice/a", endpoint="https://alice:secret@hub.example")
    assert not (tmp_path / "outbox").exists()


def test_a_queue_whose_description_is_lost_is_named_by_its_entries(queue):
    put(queue, "one")
    (queue.folder / "queue.json").write_text("{")
    assert Outbox(queue.folder.parent).queues() == [queue]


# -------------------------------------------------------------------------------------------------- putting


def test_what_is_put_in_is_whole_in_order_and_says_where_it_goes(queue):
    for content in ("one", "two", "three"):
        put(queue, content, private="on")
    assert contents(queue) == ["one", "two", "three"]
    entry = queue.entries()[0]
    assert (entry.repo_id, entry.revision, entry.endpoint, entry.private) == ("alice/adapter", "main", HUB, "on")
    assert (entry.message, entry.attempts, entry.error, entry.size) == ("one", 0, None, 3 + 9)
    assert entry.verify() is None


def test_a_number_is_never_given_twice(queue):
    first = put(queue, "one")
    queue.delivered(first, commit="c", url="u")
    second = put(queue, "two")
    queue.put_aside(second, "damaged")
    assert [first.number, second.number, put(queue, "three").number] == [1, 2, 3]


def test_an_exception_while_filling_leaves_nothing(queue):
    def fill(files: Path) -> None:
        (files / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        queue.put(fill, message="x")
    assert sorted(path.name for path in queue.folder.iterdir()) == ["queue.json"]


def test_a_full_disk_is_an_outbox_error_and_leaves_nothing(queue):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutboxError, match="Make room"):
            put(queue, "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert queue.entries() == []
    assert [path for path in queue.folder.rglob("*") if path.stat().st_size > 2000] == []


def test_a_source_that_is_gone_is_not_taken_for_a_full_outbox(queue, tmp_path):
    gone = tmp_path / "checkpoint-1" / "adapter_model.safetensors"
    with pytest.raises(AdapterError, match="checkpoint-1.*cannot be read") as caught:
        queue.put(lambda files: shutil.copy(gone, files), message="x")
    assert "room" not in str(caught.value) and queue.entries() == []
    assert sorted(path.name for path in queue.folder.iterdir()) == ["queue.json"]


def test_an_entry_that_cannot_be_written_is_the_outboxs_own_error(queue, tmp_path):
    (tmp_path / "a").write_text("a")
    with pytest.raises(OutboxError, match="HFPLUG_OUTBOX"):
        queue.put(lambda files: shutil.copy(tmp_path / "a", files / "no" / "such" / "folder"), message="x")


def test_a_disk_that_is_full_while_a_file_is_copied_is_the_outboxs_own_error(queue, tmp_path):
    (tmp_path / "weights").write_bytes(b"x" * 10_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutboxError, match="Make room"):
            queue.put(lambda files: copy_file(tmp_path / "weights", files / "weights"), message="x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_outbox_that_cannot_be_written_is_an_outbox_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match="HFPLUG_OUTBOX"):
        put(Outbox(tmp_path / "file" / "outbox").queue("alice/a", endpoint=HUB), "x")


def test_a_token_in_a_message_or_an_error_does_not_reach_the_disk(queue):
    entry = put(queue, "x")
    named = queue.put(lambda files: (files / "a").write_text("a"), message=f"with {SECRET}")
    queue.failed(entry, f"401 for https://alice:{SECRET}@hub.example and {SECRET}")
    assert named.message == "with [removed]" and "[removed]" in str(queue.entries()[0].error)
    assert [p for p in queue.folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()] == []


# --------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda e: (e / "files" / "README.md").write_text("About one"), "README.md is not as it was written"),
        (lambda e: (e / "files" / "README.md").unlink(), "README.md is missing"),
        (lambda e: (e / "files" / "extra").write_text("x"), "extra was not there"),
        (lambda e: (e / "entry.json").write_text("{"), "cannot be read"),
        (lambda e: (e / "entry.json").unlink(), "missing"),
        (
            lambda e: (e / "entry.json").write_text((e / "entry.json").read_text().replace("alice", "mallory")),
            "not as it was written",
        ),
    ],
)
def test_damage_is_noticed_and_what_is_set_aside_is_all_there(queue, harm, said):
    entry = put(queue, "one")
    put(queue, "two")
    harm(entry.folder)
    before = {p.name: p.read_bytes() for p in entry.folder.rglob("*") if p.is_file()}
    damaged = queue.entries()[0]
    assert said in str(damaged.verify())
    place = queue.put_aside(damaged, "it was damaged")
    assert {p.name: p.read_bytes() for p in place.rglob("*") if p.is_file() and p.name != "why.txt"} == before
    assert contents(queue) == ["two"] and queue.set_aside() == [place]
    assert queue.history()[-1]["outcome"] == "set aside"


def test_a_link_among_the_files_is_damage(queue, tmp_path):
    entry = put(queue, "one")
    (tmp_path / "secret").write_text("about one")
    (entry.folder / "files" / "README.md").unlink()
    (entry.folder / "files" / "README.md").symlink_to(tmp_path / "secret")
    assert "README.md" in str(entry.verify())


def test_attempts_and_errors_are_noted_without_breaking_the_seal(queue):
    queue.failed(put(queue, "one"), "the Hub is down")
    queue.failed(queue.entries()[0], "still down")
    entry = queue.entries()[0]
    assert (entry.attempts, entry.error, entry.verify()) == (2, "still down", None)


# --------------------------------------------------------------------------------------------------- leaving


def test_a_delivered_entry_leaves_a_line_that_says_which_commit_holds_it(queue):
    queue.delivered(put(queue, "one"), commit="abc", url="https://hub.example/abc")
    (line,) = queue.history()
    assert (line["outcome"], line["commit"], line["message"]) == ("delivered", "abc", "one")
    assert queue.entries() == [] and set(line["files"]) == {"README.md", "adapter_model.safetensors"}


def test_a_checkpoint_counts_as_taken_by_its_name_and_all_of_its_weights_until_it_is_damaged(queue):
    shards = {"model-1.safetensors": "a" * 64, "model-2.safetensors": "b" * 64}

    def put_checkpoint() -> Entry:
        return queue.put(
            lambda files: (files / "w").write_text("w"), message="x", checkpoint="checkpoint-1", source=shards
        )

    assert not queue.took("checkpoint-1", shards)
    entry = put_checkpoint()
    assert queue.took("checkpoint-1", shards) and not queue.took("checkpoint-2", shards)
    assert not queue.took("checkpoint-1", {**shards, "model-2.safetensors": "c" * 64})
    queue.put_aside(entry, "it was damaged")
    assert not queue.took("checkpoint-1", shards)
    queue.put_aside(put_checkpoint(), "by hand", outcome="dropped")
    assert queue.took("checkpoint-1", shards)
    assert not queue.took("checkpoint-1", {**shards, "model-2.safetensors": "c" * 64})
    queue.delivered(
        queue.put(lambda files: (files / "w").write_text("w"), message="x", checkpoint="checkpoint-3", source=shards),
        commit="c",
        url=None,
    )
    assert queue.took("checkpoint-3", shards)


def test_an_entry_whose_line_was_written_before_a_kill_is_not_sent_again(queue):
    entry = put(queue, "one")
    queue._note(entry, outcome="delivered", commit="abc")
    put(queue, "two")
    with queue.delivering():
        assert queue.first().message == "two"
    assert contents(queue) == ["two"]


def test_a_line_cut_short_by_a_kill_is_passed_over_and_the_next_one_is_whole(queue):
    queue.delivered(put(queue, "one"), commit="a", url=None)
    log = queue.folder / "delivered.jsonl"
    log.write_bytes(log.read_bytes() + b'{"entry": "0000')
    queue.delivered(put(queue, "two"), commit="b", url=None)
    assert [line["commit"] for line in queue.history()] == ["a", "b"]


def test_the_newest_takes_the_place_of_older_ones_and_counts_them(queue):
    for content in ("one", "two", "three"):
        put(queue, content, policy="newest")
    assert contents(queue) == ["three"] and queue.entries()[0].replaces == 2
    assert [(line["outcome"], line["message"]) for line in queue.history()] == [
        ("replaced", "one"),
        ("replaced", "two"),
    ]


def test_what_has_to_arrive_does_not_give_way_to_the_newest(queue):
    put(queue, "every")
    put(queue, "old", policy="newest")
    put(queue, "new", policy="newest")
    assert contents(queue) == ["every", "new"]


def test_the_newest_waits_for_its_turn_while_another_one_is_being_sent(queue):
    put(queue, "one", policy="newest")
    with queue.delivering():
        put(queue, "two", policy="newest")
        assert contents(queue) == ["one", "two"]
        assert queue.drop_replaced() == 1
    assert contents(queue) == ["two"]


# --------------------------------------------------------------------------------------------- processes, kills

HOLD = "import sys, time; from hfplug.hub.outbox import Outbox\n" + (
    "with Outbox(sys.argv[1]).queues()[0].delivering():\n    print('held', flush=True)\n    time.sleep(60)"
)
# Says what is in only after it is in: what was said has to be there.
PUT = """
import sys
from hfplug.hub.outbox import Outbox
queue = Outbox(sys.argv[1]).queue("alice/adapter", endpoint="http://127.0.0.1:1")
for number in range(int(sys.argv[2]), 10_000_000):
    def fill(files):
        for name in range(4):
            (files / str(name)).write_bytes(f"{number} ".encode() * 20_000)
    queue.put(fill, message=str(number))
    print(number, flush=True)
"""


def test_a_lock_dies_with_its_process(queue):
    put(queue, "one")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(queue.folder.parent)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BusyError), queue.delivering():
            pass
        process.send_signal(signal.SIGKILL)
    with queue.delivering():
        assert queue.first().message == "one"


def killed_while_putting(folder: Path, seed: int, start: int) -> list[int]:
    """Numbers that a process said were in, before it was killed at a random moment after the first."""
    with subprocess.Popen(
        [sys.executable, "-c", PUT, str(folder), str(start)], stdout=subprocess.PIPE, text=True
    ) as process:
        said = [int(process.stdout.readline())]
        time.sleep(random.Random(seed).uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().split()]
    return said


def check_kills(folder: Path, kills: int) -> int:
    outbox, said, half = Outbox(folder), [], 0
    for seed in range(kills):
        said += killed_while_putting(folder, seed, said[-1] + 1_000 if said else 0)
        (queue,) = outbox.queues()
        half += sum(path.name.startswith(".entry.new-") for path in queue.folder.iterdir())
        entries = queue.entries()
        assert [entry.verify() for entry in entries] == [None] * len(entries)
        # The last one may have got in without a chance to say so.
        numbers = [int(entry.message) for entry in entries]
        assert set(said) <= set(numbers) and len(set(numbers) - set(said)) <= seed + 1
        assert numbers == sorted(set(numbers))
    with queue.delivering():
        pass
    assert [path.name for path in queue.folder.iterdir() if path.name.startswith(".entry.")] == []
    return half


def test_a_kill_while_putting_loses_nothing_that_was_in_and_leaves_no_half_entry(tmp_path):
    check_kills(tmp_path, 4)


@pytest.mark.slow
def test_a_hundred_kills_while_putting_lose_nothing_and_some_of_them_hit_half_an_entry(tmp_path):
    assert check_kills(tmp_path, 100) > 5


def test_two_processes_putting_at_once_get_numbers_of_their_own(tmp_path):
    code = PUT.replace("10_000_000", "int(sys.argv[2]) + 5")
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), start], stdout=subprocess.DEVNULL)
        for start in ("100", "200")
    ]
    assert [run.wait(60) for run in runs] == [0, 0]
    (queue,) = Outbox(tmp_path).queues()
    entries = queue.entries()
    assert [entry.number for entry in entries] == list(range(1, 11))
    for start in (100, 200):
        own = [int(entry.message) for entry in entries if start <= int(entry.message) < start + 100]
        assert own == list(range(start, start + 5))


def test_the_folder_of_the_outbox_is_its_owners_alone(queue):
    put(queue, "one")
    assert os.stat(queue.folder.parent).st_mode & 0o077 == 0


def test_a_queue_is_its_owners_alone_also_in_a_folder_that_was_there_before(queue):
    queue.folder.parent.mkdir(mode=0o755)
    put(queue, "one")
    assert os.stat(queue.folder).st_mode & 0o077 == 0


def test_entry_json_is_plain_and_holds_no_path_of_this_machine(queue, tmp_path):
    text = (put(queue, "one").folder / "entry.json").read_text()
    assert str(tmp_path) not in text and json.loads(text)["policy"] == "every"
