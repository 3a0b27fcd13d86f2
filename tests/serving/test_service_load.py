"""Many users at once: every answer is its own variant's, none is lost, and memory stays where it is."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from service_parts import DIALOGUES, TASK, write_adapter
from transformers import AutoTokenizer

from hfplug.adapters.load import load_adapter
from hfplug.demo.base import base_path
from hfplug.errors import QueueFullError, ServingError
from hfplug.models.factory import applied_to
from hfplug.serving.decoding import Decoding
from hfplug.serving.generate import generate_texts
from hfplug.serving.info import Limits
from hfplug.serving.service import Service
from hfplug.training.preprocess import Preprocessor

METHODS = {
    "lora": ("lora", {"r": 4}),
    "lora-2": ("lora", {"r": 8}),
    "ia3": ("ia3", {}),
    "prompt": ("prompt_tuning", {"num_virtual_tokens": 8, "prompt_init": "random"}),
    "full": ("full", {}),
}
DRAWN = Decoding(temperature=0.8, seed=11)


@dataclass
class Users:
    """What many users do to a service for a while, and what they saw.

    Attributes:
        service: Under test.
        expected: (variant, text, "greedy" or "drawn") to the texts that are right.
        count: How many users there are.
        seconds: For how long.
    """

    service: Service
    expected: dict[tuple[str, str, str], set[str]]
    count: int
    seconds: float
    seen: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)
    slowest: float = 0.0

    def run(self) -> None:
        threads = [threading.Thread(target=self._user, args=(number,)) for number in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=self.seconds + 120)
        assert not any(thread.is_alive() for thread in threads), "a user waits for ever"

    def _user(self, number: int) -> None:
        chance = random.Random(number)
        end = time.monotonic() + self.seconds
        try:
            while time.monotonic() < end:
                self._once(chance)
        except BaseException as error:
            self.wrong.append((number, repr(error)))

    def _once(self, chance: random.Random) -> None:
        name, text, how = chance.choice(sorted(self.expected))
        decoding = DRAWN if how == "drawn" else None
        try:
            asked = self.service.ask(name, text, decoding=decoding)
        except QueueFullError:
            self.seen["refused"] += 1
            time.sleep(0.02)
            return
        self.seen["asked"] += 1
        doing = chance.random()
        if doing < 0.1:
            time.sleep(chance.random() * 0.1)
            asked.cancel()
        elif doing < 0.2:
            for _piece in asked:
                break
        elif doing < 0.6:
            *_, last = asked
            assert last.text == asked.result().text
        answer = asked.result(timeout=100)
        self.seen[answer.ended] += 1
        self.slowest = max(self.slowest, answer.waited_seconds)
        if answer.ended != "cancelled" and answer.text not in self.expected[name, text, how]:
            self.wrong.append((name, how, text[:30], answer.text, self.expected[name, text, how]))


def right_answers(base: Path, folders: dict[str, Path], texts: list[str]) -> dict[tuple[str, str, str], set[str]]:
    """Greedy ones from plain models, one by one; drawn ones from a service that nobody else uses."""
    found: dict[tuple[str, str, str], set[str]] = {}
    tokenizer = AutoTokenizer.from_pretrained(base)
    for name, folder in folders.items():
        model = load_adapter(folder, dtype="float32")
        method = applied_to(model).method
        preprocessor = Preprocessor(TASK, tokenizer, encoder_decoder=True, reserve=method.virtual_tokens())
        for text in texts:
            prompt = preprocessor.prompt(text).input_ids
            answer = generate_texts(model, tokenizer, [prompt], method=method, decoding=TASK.decoding, batch_size=1)
            found[name, text, "greedy"] = {answer.texts[0]}
    with Service(base, task=TASK, batching="one_by_one") as service:
        for text in texts:
            found["base", text, "greedy"] = {service.ask("base", text).result().text}
        for name, folder in folders.items():
            service.load(name, folder)
            for text in texts:
                found[name, text, "drawn"] = {service.ask(name, text, decoding=DRAWN).result().text}
    return found


def tensors() -> int:
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: write_adapter(base_path(), method, folder / name, seed=seed, **settings)
        for seed, (name, (method, settings)) in enumerate(METHODS.items(), start=1)
    }


def check(users: Users) -> None:
    assert users.wrong == []
    done = users.seen["stop"] + users.seen["length"] + users.seen["cancelled"]
    assert users.seen["asked"] == done
    assert (users.service.waiting, users.service.running) == (0, 0)


@pytest.mark.slow
def test_sixteen_users_get_each_their_own_answers_while_variants_are_replaced_and_leave_memory(folders):
    texts = DIALOGUES[:2]
    expected = right_answers(base_path(), folders, texts)
    for text in texts:  # "lora" is replaced by "lora-2" and back all the time
        for how in ("greedy", "drawn"):
            expected["lora", text, how] = expected["lora", text, how] | expected["lora-2", text, how]
    limits = Limits(max_queue=8, max_rows=6, variant_bytes=19_000_000)  # the full model and two small ones
    with Service(base_path(), task=TASK, batching="mixed", limits=limits) as service:
        for name, folder in folders.items():
            service.load(name, folder)
        stop = threading.Event()

        def replace():
            while not stop.is_set():
                for name in ("lora-2", "lora"):
                    service.load("lora", folders[name])
                    stop.wait(0.3)

        replacing = threading.Thread(target=replace)
        replacing.start()
        users = Users(service, expected, count=16, seconds=6)
        try:
            users.run()
        finally:
            stop.set()
            replacing.join()
        check(users)
        assert users.seen["refused"] > 0
        assert users.seen["stop"] + users.seen["length"] > 20
        until = time.monotonic() + 10  # a version that was replaced goes when its last answer is let go of
        while len(service.memory().variants) > len(folders) and time.monotonic() < until:
            time.sleep(0.05)
        assert len(service.memory().variants) <= len(folders)


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["mixed", "one_by_one"])
def test_fifty_users_for_two_minutes_get_their_own_answers_and_memory_stays_flat(folders, batching):
    expected = right_answers(base_path(), folders, DIALOGUES)
    with Service(base_path(), task=TASK, batching=batching, limits=Limits(max_queue=40)) as service:
        for name, folder in folders.items():
            service.load(name, folder)
        warm_up = Users(service, expected, count=50, seconds=30)
        warm_up.run()
        check(warm_up)
        before, counted = service.memory(), tensors()
        users = Users(service, expected, count=50, seconds=120)
        users.run()
        check(users)
        after = service.memory()
        print(f"\n{service.batching_decision}\n{dict(users.seen)}\nslowest wait {users.slowest:.1f} s")
        megabytes = [round(memory.process_bytes / 1e6) for memory in (before, after)]
        print(f"process {megabytes} MB, tensors {[counted, tensors()]}")
        assert users.seen["stop"] + users.seen["length"] > 200
        assert users.seen["refused"] > 0
        assert after.total_bytes == before.total_bytes
        assert after.process_bytes < before.process_bytes * 1.05 + 20e6
        assert abs(tensors() - counted) < 50


def test_whatever_happens_at_once_every_request_ends_and_nothing_is_left_running(folders):
    held = 600_000  # not all of the small ones
    of_others = set(threading.enumerate())
    service = Service(base_path(), task=TASK, limits=Limits(max_queue=12, variant_bytes=held))
    small = [name for name in folders if name != "full"]
    for name in small:
        service.load(name, folders[name])
    asked, strange, stop = [], [], threading.Event()

    def act(number: int) -> None:
        chance = random.Random(number)
        while not stop.is_set():
            name = chance.choice(small)
            try:
                doing = chance.choice(("load", "unload", "ask", "ask", "cancel", "leave", "all", "look", "prove"))
                if doing == "load":
                    service.load(name, folders[chance.choice(small)])
                elif doing == "unload" and number == 0:
                    service.unload(name)
                elif doing == "all":
                    asked.extend(service.ask_all(["base", *chance.sample(small, 2)], DIALOGUES[0]).values())
                elif doing == "look":
                    assert service.memory().total_bytes <= service.memory().base_bytes + held
                    service.variants()
                elif doing == "prove":
                    assert service.reprove().verdict == "proved"
                else:
                    one = service.ask(name, DIALOGUES[number])
                    asked.append(one)
                    if doing == "cancel":
                        one.cancel()
                    elif doing == "leave":
                        for _piece in one:
                            break
            except ServingError:
                time.sleep(0.01)  # the queue is full, there is no such variant now, or the service is closed
            except BaseException as error:
                strange.append(error)
                return

    threads = [threading.Thread(target=act, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(5)
    service.close()
    stop.set()
    for thread in threads:
        thread.join(timeout=60)
    ends = Counter()
    for one in asked:
        try:
            ends[one.result(timeout=10).ended] += 1
        except ServingError as error:
            ends[str(error)] += 1
    assert strange == []
    assert len(asked) > 10
    assert {end for end in ends if end not in ("stop", "length", "cancelled") and "closed" not in end} == set()
    assert not any(thread.is_alive() for thread in threads)
    assert not any(thread.name == "hfplug-pass" for thread in set(threading.enumerate()) - of_others)
    assert (service.waiting, service.running) == (0, 0)
