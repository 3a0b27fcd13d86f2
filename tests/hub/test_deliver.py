"""Delivery decides what each failure means. The Hub's part is in test_outbox_hub.py; here a function sends."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hfplug.errors import (
    HubAccessError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    HubQuotaError,
    HubRejectedError,
    HubUnavailableError,
)
from hfplug.hub.deliver import BackgroundDelivery, Courier, Pace, flush_command
from hfplug.hub.outbox import Outbox
from hfplug.hub.outbox_entry import Entry
from hfplug.hub.outbox_queue import Queue

HUB = "http://127.0.0.1:1"
QUICK = Pace(first_wait=0.001, longest_wait=0.004, busy_wait=0.001)
SECRET = "hf_" + "a1B2c3D4e5F6g7H8i9J0" * 2


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    queue = Outbox(tmp_path / "outbox").queue("alice/adapter", endpoint=HUB)
    for name in ("one", "two", "three"):
        queue.put(lambda files, name=name: (files / "weights").write_text(name), message=name)
    return queue


class Line:
    """A line to a Hub: fails as it is told, one error an attempt, and else takes what it is sent."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.attempts: list[str] = []
        self.arrived: list[str] = []

    def __call__(self, entry: Entry) -> SimpleNamespace:
        self.attempts.append(entry.message)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.arrived.append((entry.folder / "files" / "weights").read_text())
        return SimpleNamespace(commit=f"commit of {entry.message}", url=None)


def run(courier: Courier) -> None:
    deadline = time.monotonic() + 10
    while courier.attempt():
        assert time.monotonic() < deadline
        time.sleep(max(0.0, courier.due - time.monotonic()))


def test_all_arrive_in_order_and_nothing_is_left(queue):
    line = Line()
    run(Courier(queue, line, QUICK))
    assert line.arrived == ["one", "two", "three"] and queue.entries() == []
    assert [item["commit"] for item in queue.history()] == ["commit of one", "commit of two", "commit of three"]


def test_a_failure_that_may_pass_keeps_the_order(queue):
    line = Line(HubUnavailableError("down"), None, HubUnavailableError("down"), HubUnavailableError("down"))
    run(Courier(queue, line, QUICK))
    assert line.attempts == ["one", "one", "two", "two", "two", "three"]
    assert line.arrived == ["one", "two", "three"]


def test_what_the_hub_asks_for_is_waited_for(queue):
    line = Line(HubUnavailableError("slower", status=429, retry_after=0.3))
    courier = Courier(queue, line, QUICK)
    began = time.monotonic()
    run(courier)
    assert time.monotonic() - began >= 0.3


def test_waits_grow_to_a_bound_and_differ(queue):
    pace = Pace(first_wait=1.0, longest_wait=8.0)
    courier = Courier(queue, Line(*[HubUnavailableError("down")] * 40), pace, rng=random.Random(1))
    waits = []
    for _ in range(40):
        courier.due = 0.0
        courier.attempt()
        waits.append(courier.due - time.monotonic())
    assert all(0.4 < wait <= 1.0 for wait in waits[:1]) and all(3.9 < wait <= 8.0 for wait in waits[4:])
    assert len({round(wait, 3) for wait in waits[4:]}) > 20
    assert queue.entries()[0].attempts == 40


@pytest.mark.parametrize(
    "error",
    [
        HubAccessError("no token", status=401),
        HubAccessError("may not", status=403),
        HubNotFoundError("not there", status=404),
        HubQuotaError("full", status=413),
        HubRejectedError("a bad card", status=400),
        HubError("who knows"),
        ValueError(f"a library's own error with {SECRET}"),
    ],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'status', '')}",
)
def test_a_failure_that_will_not_pass_stops_the_queue_until_somebody_flushes(queue, error):
    line = Line(error)
    courier = Courier(queue, line, QUICK)
    run(courier)
    run(courier)
    first = queue.entries()[0]
    assert line.attempts == ["one"] and len(queue.entries()) == 3 and first.attempts == 1
    assert str(error).replace(SECRET, "[removed]") in first.error and SECRET not in first.error
    courier.go_on()
    run(courier)
    assert line.arrived == ["one", "two", "three"]


def test_a_moved_head_is_tried_from_anew_a_few_times_and_then_stops(queue):
    line = Line(HubConflictError("moved"), HubConflictError("moved"))
    run(Courier(queue, line, QUICK))
    assert line.arrived == ["one", "two", "three"]
    queue.put(lambda files: (files / "weights").write_text("four"), message="four")
    line = Line(*[HubConflictError("moved")] * 50)
    run(Courier(queue, line, QUICK))
    assert line.attempts == ["four"] * QUICK.conflicts and queue.entries()[0].error == "moved"


def test_a_damaged_entry_is_set_aside_unsent_and_the_others_go(queue):
    (queue.entries()[1].folder / "files" / "weights").write_text("tw0")
    line = Line()
    courier = Courier(queue, line, QUICK)
    run(courier)
    assert line.attempts == ["one", "three"]
    assert [(path / "files" / "weights").read_text() for path in courier.damaged] == ["tw0"]
    assert "not as it was written" in (courier.damaged[0] / "why.txt").read_text()


def test_two_couriers_of_one_queue_send_each_entry_once(queue):
    line = Line()

    def slowly(entry: Entry) -> SimpleNamespace:
        time.sleep(0.02)
        return line(entry)

    threads = [threading.Thread(target=run, args=(Courier(queue, slowly, QUICK),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert line.attempts == line.arrived == ["one", "two", "three"]


def test_a_thread_delivers_what_is_put_in_later_and_is_flushed(queue):
    line = Line(None, None, HubUnavailableError("down"))
    said: list[str] = []
    before = set(threading.enumerate())
    delivery = BackgroundDelivery(queue, send=line, pace=QUICK, say=said.append)
    delivery.start()
    delivery.flush(10)
    queue.put(lambda files: (files / "weights").write_text("four"), message="four")
    delivery.wake()
    delivery.flush(10)
    delivery.stop(10)
    assert line.arrived == ["one", "two", "three", "four"] and said == ["down"]
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("asked", [1e11, float("inf")])
def test_a_thread_outlives_a_wait_that_no_clock_takes(queue, asked):
    line, said = Line(HubUnavailableError("slower", status=429, retry_after=asked)), []
    delivery = BackgroundDelivery(queue, send=line, pace=QUICK, say=said.append)
    delivery.start()
    delivery.flush(0.3)
    assert delivery._thread.is_alive() and said == ["slower"] and line.attempts == ["one"]
    delivery.stop(10)
    assert not delivery._thread.is_alive() and len(queue.entries()) == 3


def test_a_thread_outlives_exceptions_of_any_kind_and_goes_on_when_it_is_woken(queue, monkeypatch):
    def raising(text: str) -> None:
        raise RuntimeError(text)

    line = Line(HubUnavailableError("down"))
    delivery = BackgroundDelivery(queue, send=line, pace=QUICK, say=raising)
    monkeypatch.setattr(delivery.courier, "attempt", lambda: raising("a mistake of our own"))
    delivery.start()
    delivery.flush(10)
    assert line.attempts == [] and delivery._thread.is_alive()
    monkeypatch.undo()
    delivery.flush(float("inf"))
    delivery.stop(10)
    assert line.arrived == ["one", "two", "three"]


def test_a_flush_in_vain_ends_when_its_time_is_up(queue):
    pace = Pace(first_wait=0.01, longest_wait=0.01)
    delivery = BackgroundDelivery(
        queue, send=Line(*[HubUnavailableError("down")] * 1000), pace=pace, say=lambda _: None
    )
    delivery.start()
    began = time.monotonic()
    delivery.flush(0.3)
    assert 0.25 < time.monotonic() - began < 2
    delivery.stop(10)
    assert len(queue.entries()) == 3


def test_a_flush_tries_once_more_what_had_stopped(queue):
    line = Line(HubAccessError("no token", status=401))
    said: list[str] = []
    delivery = BackgroundDelivery(queue, send=line, pace=QUICK, say=said.append)
    delivery.start()
    deadline = time.monotonic() + 10
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(3):
        delivery.wake()
    assert said == ["no token"] and line.attempts == ["one"]
    delivery.flush(10)
    delivery.stop(10)
    assert line.arrived == ["one", "two", "three"]


def test_the_command_to_type_names_the_folder_and_the_hub_where_they_are_not_the_shells(tmp_path, monkeypatch):
    monkeypatch.setenv("HFPLUG_OUTBOX", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", HUB)
    assert flush_command(Outbox(), HUB) == "hfplug outbox flush"
    command = flush_command(Outbox(tmp_path / "other one"), "https://hub.example")
    assert command == f"HFPLUG_OUTBOX='{tmp_path}/other one' HF_ENDPOINT=https://hub.example hfplug outbox flush"
