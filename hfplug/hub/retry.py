"""Trying again: how long to wait, and how often. The only place that decides it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from hfplug.errors import HubError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

TRIES = 5
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 300.0


def retrying(
    call: Callable[[], Result],
    *,
    tries: int = TRIES,
    first_wait: float = FIRST_WAIT_SECONDS,
    longest_wait: float = LONGEST_WAIT_SECONDS,
    sleep: Callable[[float], object] = time.sleep,
    rng: random.Random | None = None,
) -> Result:
    """``call()``, again after a while when a Hub fails in a way that may pass.

    Args:
        call: May be made more than once.
        tries: How often at most, at least 1.
        first_wait: Seconds, see :func:`wait_seconds`.
        longest_wait: Seconds. A Hub that asks for more than that is not waited for.
        sleep: Waits for so many seconds.
        rng: Source of the jitter.

    Returns:
        What ``call`` returned.

    Raises:
        HubError: One that is not transient, at once; a transient one after the last try.
    """
    rng = rng or random.Random()
    for number in range(1, tries + 1):
        try:
            return call()
        except HubError as error:
            asked = error.retry_after or 0.0
            if not error.transient or number == tries or asked > longest_wait:
                raise
            seconds = wait_seconds(
                number, retry_after=error.retry_after, first_wait=first_wait, longest_wait=longest_wait, rng=rng
            )
            logger.info("%s Trying again in %.1f s (%d of %d).", error.message, seconds, number + 1, tries)
            sleep(seconds)
    raise ValueError(f"tries must be at least 1, not {tries}.")


def wait_seconds(
    failures: int,
    *,
    retry_after: float | None = None,
    first_wait: float = FIRST_WAIT_SECONDS,
    longest_wait: float = LONGEST_WAIT_SECONDS,
    rng: random.Random | None = None,
) -> float:
    """How long to wait after so many failures in a row.

    Args:
        failures: At least 1. The wait doubles with each.
        retry_after: Seconds that the Hub asked for: never less than that, whatever the rest says.
        first_wait: Seconds after the first failure, before the jitter.
        longest_wait: Seconds, the longest wait of our own choice.
        rng: Source of the jitter, which takes up to half of the wait away: processes that failed together do
            not come back together.
    """
    # 2 ** 1024 is no float; long before that the longest wait counts.
    backoff = min(longest_wait, first_wait * 2.0 ** min(failures - 1, 64))
    jittered = backoff * (rng or random.Random()).uniform(0.5, 1.0)
    if retry_after is None:
        return jittered
    # On top of what was asked for, so that those who were told the same moment spread out.
    return retry_after + min(jittered, 1.0)
