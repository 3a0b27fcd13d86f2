"""What goes on around answers: waiting, calling off, loading, replacing, leaving memory, failing, ending."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from service_parts import DIALOGUES, TASK, plain_answer, write_adapter

from hfplug.errors import AdapterError, MismatchError, QueueFullError, ServingError
from hfplug.serving.decoding import Decoding
from hfplug.serving.info import Limits
from hfplug.serving.service import Service

TEXT = DIALOGUES[0]
# Long enough to act while it is written, and of no use to anybody who waits for its end.
LONG = dataclasses.replace(TASK, decoding={**TASK.decoding, "min_new_tokens": 3000, "max_new_tokens": 3000})
ROOMY = Limits(max_new_tokens=3000)


@pytest.fixture(scope="module")
def shop(make_shop):
    return make_shop("t5")


@pytest.fixture
def start(shop):
    """``start(*names, **settings)``: a service with variants; closed after the test."""
    services: list[Service] = []

    def make(*names, **settings):
        service = Service(shop.base, **{"task": TASK, "batching": "mixed", **settings})
        services.append(service)
        for name in names:
            service.load(name, shop.adapters[name])
        return service

    yield make
    for service in services:
        service.close()


@pytest.fixture(scope="module")
def expected(shop):
    return {name: plain_answer(shop.base, shop.adapters.get(name), TEXT) for name in ("base", *shop.adapters)}


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.005)


def running(service, name="lora", **more):
    """A long answer that is being written."""
    asked = service.ask(name, TEXT, task=LONG, **more)
    next(iter_ := iter(asked))
    return asked, iter_


# ------------------------------------------------------------------------------------------- calling off


def test_what_is_called_off_while_it_is_written_ends_at_the_next_token_with_what_there_is(start):
    service = start("lora", limits=ROOMY)
    asked, _pieces = running(service)
    asked.cancel()
    answer = asked.result(timeout=20)
    assert answer.ended == "cancelled"
    assert 0 < answer.tokens < 3000
    wait_until(lambda: service.running == 0)


def test_what_is_called_off_in_the_queue_frees_its_place_at_once(start):
    service = start("lora", limits=Limits(max_new_tokens=3000, max_passes=1, max_queue=1))
    first, _pieces = running(service)
    second = service.ask("lora", TEXT)
    with pytest.raises(QueueFullError, match="1 requests wait already"):
        service.ask("lora", TEXT)
    second.cancel()
    assert second.result(timeout=5).ended == "cancelled"
    assert second.result().tokens == 0
    third = service.ask("lora", TEXT)
    assert (service.waiting, third.state) == (1, "queued")
    first.cancel()
    assert third.result(timeout=20).ended in ("stop", "length")


def test_a_reader_that_leaves_the_loop_frees_its_slot(start):
    service = start("lora", limits=ROOMY)
    for _piece in service.ask("lora", TEXT, task=LONG):
        break
    wait_until(lambda: service.running == 0)


def test_a_reader_that_fails_in_the_loop_frees_its_slot(start):
    service = start("lora", limits=ROOMY)
    with pytest.raises(KeyboardInterrupt):
        for _piece in service.ask("lora", TEXT, task=LONG):
            raise KeyboardInterrupt
    wait_until(lambda: service.running == 0)


def test_an_answer_that_nobody_can_read_any_more_is_not_written(start):
    service = start("lora", limits=ROOMY)
    service.ask("lora", TEXT, task=LONG)
    gc.collect()
    wait_until(lambda: service.running == service.waiting == 0)


def test_beams_are_called_off_too(start):
    service = start("lora", limits=ROOMY)
    asked = service.ask("lora", TEXT, task=LONG, decoding=Decoding(num_beams=2))
    wait_until(lambda: asked.state == "running")
    asked.cancel()
    assert asked.result(timeout=20).ended == "cancelled"


def test_one_row_is_called_off_and_the_others_of_its_pass_are_answered(start, expected):
    service = start("lora", "lora-2", limits=Limits(max_new_tokens=3000, max_passes=1))
    long, _pieces = running(service)
    asked = service.ask_all(["lora", "lora-2"], TEXT)
    asked["lora-2"].cancel()
    beside = service.ask("lora-2", TEXT)
    long.cancel()
    assert asked["lora"].result(timeout=20).text == expected["lora"]
    assert beside.result(timeout=20).text == expected["lora-2"]


# ------------------------------------------------------------------------------------------- side by side


def test_a_new_request_need_not_wait_for_a_running_one(start, expected):
    service = start("lora", "lora-2", batching="one_by_one", limits=ROOMY)
    long, _pieces = running(service)
    assert service.ask("lora-2", TEXT).result(timeout=20).text == expected["lora-2"]
    assert long.state == "running"


def test_what_waits_together_is_answered_in_one_pass_however_many_were_answered_before(start, expected):
    service = start("lora", "full", limits=Limits(max_new_tokens=3000, max_passes=1, max_rows=3))
    service.ask("full", TEXT).result(timeout=20)
    sizes = []
    model = service._resident.attached["full"].model
    model.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    long, _pieces = running(service)
    asked = [service.ask("full", TEXT) for _ in range(4)]
    long.cancel()
    assert {one.result(timeout=20).text for one in asked} == {expected["full"]}
    assert sizes == [3, 1]


def test_a_result_that_is_not_there_in_time_is_a_timeout_and_still_comes(start):
    service = start("lora", limits=ROOMY)
    asked, _pieces = running(service)
    with pytest.raises(TimeoutError):
        asked.result(timeout=0.01)
    assert asked.state == "running"


def test_all_or_none_come_into_a_full_queue(start):
    service = start("lora", "lora-2", limits=Limits(max_new_tokens=3000, max_passes=1, max_queue=2))
    long, _pieces = running(service)
    waiting = service.ask("lora", TEXT)
    with pytest.raises(QueueFullError) as caught:
        service.ask_all(["lora", "lora-2"], TEXT)
    assert caught.value.transient
    assert service.waiting == 1
    long.cancel()
    assert waiting.result(timeout=20).text


# ------------------------------------------------------------------------------- loading and leaving memory


def test_requests_in_flight_finish_on_the_old_version_and_new_ones_get_the_new_one(start, shop, expected):
    service = start("lora", limits=Limits(max_new_tokens=3000, max_passes=1))
    long, _pieces = running(service)
    queued = service.ask("lora", TEXT)
    service.load("lora", shop.adapters["lora-2"])
    new = service.ask("lora", TEXT)
    assert len(service.memory().variants) == 2  # the old one is still needed
    long.cancel()
    assert queued.result(timeout=20).text == expected["lora"]
    assert new.result(timeout=20).text == expected["lora-2"]
    wait_until(lambda: len(service.memory().variants) == 1)
    assert [info.name for info in service.variants()] == ["base", "lora"]


def test_an_unloaded_variant_answers_what_was_asked_before_and_is_then_gone(start, expected):
    service = start("lora", limits=Limits(max_new_tokens=3000, max_passes=1))
    long, _pieces = running(service)
    queued = service.ask("lora", TEXT)
    service.unload("lora")
    with pytest.raises(ServingError, match="no variant 'lora'"):
        service.ask("lora", TEXT)
    long.cancel()
    assert queued.result(timeout=20).text == expected["lora"]
    wait_until(lambda: service.memory().variants == {})


def test_a_folder_that_does_not_load_changes_nothing(start, tmp_path, expected, make_shop):
    service = start("lora")
    with pytest.raises(AdapterError):
        service.load("lora", tmp_path)
    with pytest.raises(MismatchError):
        service.load("lora", make_shop("llama").adapters["lora"])
    assert service.ask("lora", TEXT).result().text == expected["lora"]


@pytest.mark.parametrize("name", ["base", "", " ", "a\nb", "x" * 101, 3, "mixed"])
def test_a_name_that_cannot_be_used_is_refused(start, shop, name):
    with pytest.raises(ServingError):
        start().load(name, shop.adapters["lora"])


def test_what_was_used_least_recently_leaves_memory_and_comes_back_when_it_is_asked(start, shop, expected):
    full = start("full").variant("full").held_bytes
    service = start(limits=Limits(variant_bytes=int(full * 1.5)))
    for name in ("lora", "full", "lora-2"):
        service.load(name, shop.adapters[name])
    assert {info.state for info in service.variants()} == {"ready"}
    service.ask("lora", TEXT).result()
    service.load("another", shop.adapters["full"])
    assert [(info.name, info.state) for info in service.variants()[1:]] == [
        ("lora", "ready"),
        ("full", "on disk"),
        ("lora-2", "ready"),
        ("another", "ready"),
    ]
    assert service.memory().total_bytes <= service.memory().base_bytes + full * 1.5
    for _ in range(2):
        for name in ("full", "lora", "another", "lora-2"):
            assert service.ask(name, TEXT).result(timeout=30).text == expected["full" if name == "another" else name]
            assert sum(service.memory().variants.values()) <= full * 1.5


def test_a_batch_whose_variants_do_not_fit_together_is_answered_in_parts(start, expected):
    both = start("lora", "lora-2")
    one = max(info.held_bytes for info in both.variants())
    service = start("lora", "lora-2", limits=Limits(variant_bytes=one))
    asked = service.ask_all(["lora", "lora-2"], TEXT)
    assert {name: found.result(timeout=30).text for name, found in asked.items()} == {
        name: expected[name] for name in asked
    }


def test_one_that_is_in_use_does_not_leave_memory(start, shop):
    held = start("lora").variant("lora").held_bytes
    service = start("lora", limits=Limits(max_new_tokens=3000, variant_bytes=int(held * 1.4)))
    long, _pieces = running(service)
    loading = threading.Thread(target=service.load, args=("another", shop.adapters["lora"]))
    loading.start()
    time.sleep(0.5)
    assert (service.variant("lora").state, loading.is_alive()) == ("ready", True)
    long.cancel()
    loading.join(timeout=20)
    assert service.variant("lora").state == "on disk"
    assert service.variant("another").state == "ready"


def test_one_that_is_larger_than_the_limit_is_refused(start, shop):
    held = start("lora").variant("lora").held_bytes
    service = start("lora", limits=Limits(variant_bytes=held))
    with pytest.raises(ServingError, match="variant_bytes"):
        service.load("full", shop.adapters["full"])
    assert [info.name for info in service.variants()] == ["base", "lora"]


def test_a_folder_that_changed_while_its_variant_was_not_in_memory_is_not_taken_for_it(start, shop, tmp_path):
    moving = write_adapter(shop.base, "lora", tmp_path / "moving", r=2, seed=5)
    held = start("lora").variant("lora").held_bytes
    service = start(limits=Limits(variant_bytes=int(held * 1.2)))
    service.load("moving", moving)
    service.load("lora", shop.adapters["lora"])
    assert service.variant("moving").state == "on disk"
    write_adapter(shop.base, "lora", moving, r=2, seed=6)
    with pytest.raises(ServingError, match="has changed since"):
        service.ask("moving", TEXT).result(timeout=20)
    service.load("moving", moving)
    assert service.ask("moving", TEXT).result(timeout=20).text == plain_answer(shop.base, moving, TEXT)


def test_one_whose_folder_is_gone_says_so_and_the_others_are_answered(start, shop, tmp_path, expected):
    shutil.copytree(shop.adapters["lora"], tmp_path / "moving")
    service = start("lora")
    held = service.variant("lora").held_bytes
    service = start(limits=Limits(variant_bytes=int(held * 1.9)))
    service.load("moving", tmp_path / "moving")
    service.load("lora", shop.adapters["lora"])
    shutil.rmtree(tmp_path / "moving")
    asked = service.ask_all(["lora", "moving", "base"], TEXT)
    assert {name: asked[name].result(timeout=30).text for name in ("lora", "base")} == {
        name: expected[name] for name in ("lora", "base")
    }
    with pytest.raises(ServingError, match="no folder"):
        asked["moving"].result(timeout=30)
    service.load("full-size", shop.adapters["lora-2"])  # nothing is held for ever
    assert service.ask("full-size", TEXT).result(timeout=30).text == expected["lora-2"]


def test_variants_that_cannot_share_a_pass_after_all_are_answered_apart(start, expected):
    service = start("lora", "full")
    version = service._shelf.current("full")
    version.facts = dataclasses.replace(version.facts, batching="mixed")  # as if it had been so when it was tried
    asked = service.ask_all(["lora", "full"], TEXT)
    assert {name: one.result(timeout=30).text for name, one in asked.items()} == {
        name: expected[name] for name in ("lora", "full")
    }


# ----------------------------------------------------------------------------------------- what went wrong


def test_a_base_that_was_changed_is_refused_and_says_so(start):
    service = start("lora")
    assert service.base_proof.verdict == "proved"
    assert service.ask("base", TEXT).result().text
    weight = next(service._resident.model.parameters())
    with torch.no_grad():
        weight[0, 0] += 1
    assert service.reprove().verdict == "failed"
    with pytest.raises(ServingError, match="base is not answered"):
        service.ask("base", TEXT)
    info = service.variant("base")
    assert (info.state, "not what was loaded" in info.banner) == ("refused", True)
    with torch.no_grad():
        weight[0, 0] -= 1


def test_the_base_is_proved_again_after_a_variant_was_loaded(start, shop, tmp_path):
    service = start()
    assert service.ask("base", TEXT).result().text
    service.load("lora", shop.adapters["lora"])
    service._resident.model.register_forward_hook(lambda *_: None)
    with pytest.raises(ServingError, match="base is not answered"):
        service.ask("base", TEXT)


def test_a_variant_that_does_not_answer_as_for_its_author_has_a_banner(start, shop, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(shop.adapters["lora"], folder)
    lock = json.loads((folder / "hfplug_lock.json").read_text())
    lock["probe"]["inputs"][0]["values"][0][0] += 100.0
    (folder / "hfplug_lock.json").write_text(json.dumps(lock))
    service = start("lora")
    assert service.variant("lora").banner is None
    info = service.load("other", folder)
    assert "does not answer as it did for its author" in info.banner
    assert service.ask("other", TEXT).result().text


def broken(service, name, error, above=0):
    """The variant's own model raises from here on, if a pass has more rows than ``above``."""
    model = service._resident.attached[name].model

    def fail(module, args, kwargs):
        rows = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)).shape[0]
        if rows > above:
            raise error

    return model.register_forward_pre_hook(fail, with_kwargs=True)


def test_an_error_in_a_pass_reaches_all_that_share_it_and_the_service_lives_on(start, expected):
    service = start("lora", "full", limits=Limits(max_new_tokens=3000, max_passes=1))
    long, _pieces = running(service, "lora")
    hook = broken(service, "full", ZeroDivisionError("one over nothing"))
    asked = [service.ask("full", TEXT) for _ in range(3)]
    long.cancel()
    for one in asked:
        with pytest.raises(ServingError, match="ZeroDivisionError: one over nothing"):
            one.result(timeout=20)
        with pytest.raises(ServingError, match="ZeroDivisionError"):
            list(one)
    hook.remove()
    assert service.ask("full", TEXT).result(timeout=20).text == expected["full"]
    assert service.ask("lora", TEXT).result(timeout=20).text == expected["lora"]


def test_where_memory_does_not_reach_for_a_batch_smaller_ones_are_tried(start, expected):
    service = start("lora", "full", limits=Limits(max_new_tokens=3000, max_passes=1))
    long, _pieces = running(service, "lora")
    broken(service, "full", torch.OutOfMemoryError("CUDA out of memory."), above=2)
    asked = [service.ask("full", TEXT) for _ in range(5)]
    long.cancel()
    assert {one.result(timeout=20).text for one in asked} == {expected["full"]}
    wait_until(lambda: service._engine.max_rows == 2)


def test_where_memory_does_not_reach_for_one_row_its_asker_is_told(start):
    service = start("full")
    hook = broken(service, "full", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    with pytest.raises(ServingError, match="memory does not reach"):
        service.ask("full", TEXT).result(timeout=20)
    hook.remove()
    assert service.ask("full", TEXT).result(timeout=20).text


def test_closing_ends_what_is_written_what_waits_and_the_threads(start):
    before = threading.active_count()
    service = start("lora", limits=Limits(max_new_tokens=3000, max_passes=1))
    long, pieces = running(service)
    queued = service.ask("lora", TEXT)
    service.close()
    for asked in (long, queued):
        with pytest.raises(ServingError, match="closed"):
            asked.result(timeout=5)
    with pytest.raises(ServingError, match="closed"):
        list(pieces)
    with pytest.raises(ServingError, match="closed"):
        service.ask("lora", TEXT)
    service.close()
    assert threading.active_count() <= before


def test_a_service_that_is_let_go_of_ends_its_threads(shop):
    of_others = set(threading.enumerate())
    service = Service(shop.base, task=TASK)
    service.ask("base", TEXT).result()
    own = [thread for thread in threading.enumerate() if thread.name == "hfplug-pass" and thread not in of_others]
    assert own
    del service
    gc.collect()
    wait_until(lambda: not any(thread.is_alive() for thread in own))


# ------------------------------------------------------------------------------------------ what it says


def test_memory_is_the_base_and_what_each_variant_holds_beyond_it(start):
    service = start("lora", "prompt", "full")
    memory = service.memory()
    infos = {info.name: info for info in service.variants()}
    assert memory.base_bytes == sum(p.numel() * p.element_size() for p in service._resident.model.parameters())
    assert memory.variants == {name: infos[name].held_bytes for name in ("lora", "prompt", "full")}
    assert memory.total_bytes == memory.base_bytes + sum(memory.variants.values())
    assert memory.variants["lora"] == 4 * infos["lora"].trainable_parameters
    assert memory.process_bytes > memory.total_bytes


def test_variants_say_what_they_are(start, shop):
    service = start("lora", "full")
    base, lora, full = service.variants()
    assert (base.name, base.kind, base.state, base.banner) == ("base", "base", "ready", None)
    assert (lora.kind, lora.method, lora.settings["r"], lora.task) == ("adapter", "lora", 4, TASK)
    assert (full.kind, full.method) == ("full", "full")
    assert 0 < lora.trainable_share < full.trainable_share
    assert full.trainable_share == pytest.approx(1.0, abs=0.01)
    assert lora.disk_bytes == (shop.adapters["lora"] / "adapter_model.safetensors").stat().st_size
    assert lora.batching == "mixed"


def test_the_faster_way_of_batching_is_timed_and_used(start):
    service = start("lora", batching="auto")
    assert service.batching_decision.variants == 0
    service.load("lora-2", service.variant("lora").folder)
    decision = service.batching_decision
    assert decision.variants == 2
    faster = "mixed" if decision.mixed_seconds <= decision.one_by_one_seconds else "one_by_one"
    assert decision.mode == faster
    assert "times as fast for 2 variants" in decision.reason


@pytest.mark.parametrize("mode", ["mixed", "one_by_one"])
def test_both_ways_of_batching_give_the_same_answers(start, expected, mode):
    service = start("lora", "lora-2", "prompt", batching=mode)
    assert (service.batching_decision.mode, service.batching_decision.reason) == (mode, "asked for")
    asked = service.ask_all(["base", "lora", "lora-2", "prompt"], TEXT)
    assert {name: one.result().text for name, one in asked.items()} == {name: expected[name] for name in asked}


def test_limits_are_checked():
    with pytest.raises(ServingError, match="max_rows must be a whole number"):
        Limits(max_rows=0)
    with pytest.raises(ServingError, match="batching must be"):
        Service("nowhere", batching="fast")


def test_ctrl_c_calls_off_what_is_waited_for_and_a_program_ends_although_an_answer_is_being_written(shop):
    program = f"""
import dataclasses, os, signal, sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from service_parts import DIALOGUES, TASK
from hfplug import Limits, Service
long = dataclasses.replace(TASK, decoding={{"min_new_tokens": 9000, "max_new_tokens": 9000}})
service = Service({str(shop.base)!r}, limits=Limits(max_new_tokens=9000))
asked = service.ask("base", DIALOGUES[0], task=long)
next(iter(pieces := iter(asked)))
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    asked.result()
except KeyboardInterrupt:
    while service.running:
        time.sleep(0.01)
    print(asked.result().ended, flush=True)
another = service.ask("base", DIALOGUES[0], task=long)
next(iter(more := iter(another)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "cancelled\n"), done.stderr
