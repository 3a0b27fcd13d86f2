"""Trying again: when, how often, and after how long."""

from __future__ import annotations

import random

import pytest

from hfplug.errors import HubAccessError, HubUnavailableError
from hfplug.hub.retry import retrying, wait_seconds


class Failing:
    """Fails with these errors, one after another, then returns "done"."""

    def __init__(self, *errors):
        self.errors, self.calls, self.waits = list(errors), 0, []

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_what_may_pass_is_tried_again_after_growing_waits():
    call = Failing(*[HubUnavailableError("away")] * 4)
    assert retrying(call, tries=5, sleep=call.waits.append, rng=random.Random(1)) == "done"
    assert call.calls == 5 and len(call.waits) == 4
    for number, seconds in enumerate(call.waits):
        assert 0.5 * 2**number <= seconds <= 2**number


def test_it_ends_with_the_last_error():
    call = Failing(*[HubUnavailableError(f"away {number}") for number in range(9)])
    with pytest.raises(HubUnavailableError, match="away 2"):
        retrying(call, tries=3, sleep=call.waits.append)
    assert call.calls == 3 and len(call.waits) == 2


@pytest.mark.parametrize("error", [HubAccessError("no"), KeyError("no")])
def test_what_does_not_pass_is_not_tried_again(error):
    call = Failing(error)
    with pytest.raises(type(error)):
        retrying(call, tries=5, sleep=call.waits.append)
    assert call.calls == 1 and call.waits == []


def test_a_hub_is_never_asked_before_it_said():
    call = Failing(HubUnavailableError("busy", retry_after=20), HubUnavailableError("busy", retry_after=0))
    retrying(call, tries=3, sleep=call.waits.append)
    assert 20 <= call.waits[0] <= 21 and 0 <= call.waits[1] <= 1


def test_a_hub_that_wants_an_hour_is_not_waited_for():
    call = Failing(HubUnavailableError("busy", retry_after=3600))
    with pytest.raises(HubUnavailableError):
        retrying(call, tries=3, longest_wait=300, sleep=call.waits.append)
    assert call.waits == []


def test_waits_are_bounded_and_differ_between_processes():
    rngs = [random.Random(seed) for seed in range(20)]
    waits = [wait_seconds(50, longest_wait=60, rng=rng) for rng in rngs]
    assert all(30 <= seconds <= 60 for seconds in waits) and len(set(waits)) == 20
    assert wait_seconds(10_000, longest_wait=60, rng=rngs[0]) <= 60


def test_no_try_at_all_is_a_mistake():
    with pytest.raises(ValueError, match="at least 1"):
        retrying(lambda: None, tries=0)
