"""Delivery: from the outbox to the Hub, in order, once, without giving up too early or trying for ever.

One attempt takes the first entry of a queue under its lock, checks its sums, and sends it. What then happens:

    sent                      a line in delivered.jsonl, the entry is gone, the next one is due
    damaged on this disk      it is set aside; never sent, never deleted
    network, 408, 429, 5xx    it stays first; again after a wait that grows, or that the Hub asked for
    409, 412                  a few times more, because the next attempt starts from the new head; then it stops
    401, 403, 404, quota, …   the queue stops, with the message in the entry, until somebody flushes

The lock is let go between attempts, so that two processes can deliver from one queue: each looks anew which entry
is first. That an answer was lost after the commit landed is seen by ``send``, which reads the head first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hfplug.adapters.record import scrub
from hfplug.errors import HfplugError, HubConflictError, HubError, OutboxError
from hfplug.hub.outbox import MAIN, Outbox, default_root
from hfplug.hub.outbox_entry import FILES, Entry
from hfplug.hub.outbox_queue import BusyError, Queue
from hfplug.hub.retry import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, wait_seconds

if TYPE_CHECKING:
    from hfplug.hub.send import Sent

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long delivery waits.

    Args:
        first_wait: Seconds after the first failure; they double with each, less a random part.
        longest_wait: Seconds, the longest wait of our own choice. A Hub that asks for more gets it, up to a day.
        busy_wait: Seconds before looking again at a queue that another process is delivering from.
        conflicts: How often in a row a moved head is worth another attempt.
        timeout: Seconds that one request may wait for an answer.
    """

    first_wait: float = FIRST_WAIT_SECONDS
    longest_wait: float = LONGEST_WAIT_SECONDS
    busy_wait: float = 0.5
    conflicts: int = 3
    timeout: float = 30.0


class Sender(Protocol):
    """Sends the files of one entry and returns once the Hub has confirmed them."""

    def __call__(self, entry: Entry) -> Sent: ...


def make_sender(token: str | None = None, *, timeout: float = Pace.timeout) -> Sender:
    """A sender through huggingface_hub.

    Args:
        token: Kept in memory only; that of ``HF_TOKEN`` or ``hf auth login``, read at each attempt, if not given.
        timeout: Seconds that one request may wait for an answer.
    """

    def send_entry(entry: Entry) -> Sent:
        from hfplug.hub.client import connect
        from hfplug.hub.parcel import Parcel
        from hfplug.hub.send import send

        return send(
            connect(entry.endpoint, token, timeout=timeout),
            Parcel.open(entry.folder / FILES),
            entry.repo_id,
            private=entry.private,
            revision=None if entry.revision == MAIN else entry.revision,
            message=entry.message,
            parcel_id=entry.id,
        )

    return send_entry


@dataclass
class Courier:
    """Delivers from one queue, one attempt at a time.

    Args:
        queue: Where from.
        send: How.
        pace: How long to wait.
        rng: Source of the jitter.

    Attributes:
        due: When the next attempt may be made, on the clock of ``time.monotonic``.
        stopped: Why there will be no further attempt, or None.
        error: Why the last attempt failed, or None.
        delivered: How many entries have arrived through this courier.
        damaged: Where the damaged entries are that it set aside.
    """

    queue: Queue
    send: Sender
    pace: Pace = field(default_factory=Pace)
    rng: random.Random = field(default_factory=random.Random)
    due: float = 0.0
    stopped: HfplugError | None = None
    error: HfplugError | None = None
    delivered: int = 0
    damaged: list[Path] = field(default_factory=list)
    _failures: int = 0
    _conflicts: int = 0

    def attempt(self) -> bool:
        """Make one attempt if it is time.

        Returns:
            Whether there may be something to do later: False once the queue is empty or has stopped.
        """
        if self.stopped is not None:
            return False
        if time.monotonic() < self.due:
            return True
        try:
            with self.queue.delivering():
                return self._deliver_first()
        except BusyError:
            self.due = time.monotonic() + self.pace.busy_wait
        except OutboxError as error:
            self.stopped = self.error = error
        return self.stopped is None

    def go_on(self) -> None:
        """Try again, although a permanent failure stopped it. A wait that the Hub asked for stays."""
        if self.stopped is not None:
            self.stopped, self.due, self._conflicts = None, 0.0, 0

    def _deliver_first(self) -> bool:
        dropped = self.queue.drop_replaced()
        if dropped:
            logger.info("%s to %s gave way to the newest.", count_pushes(dropped), self.queue.repo_id)
        entry = self.queue.first()
        if entry is None:
            return False
        damage = entry.verify()
        if damage:
            self.damaged.append(self.queue.put_aside(entry, f"It was damaged on this disk: {damage}."))
            logger.warning("A push is damaged (%s) and was set aside, not sent: %s", damage, self.damaged[-1])
            return True
        try:
            sent = self.send(entry)
        except Exception as error:
            self._note(entry, error)
            return self.stopped is None
        self.queue.delivered(entry, commit=sent.commit, url=sent.url)
        self.error, self.due, self._failures, self._conflicts = None, 0.0, 0, 0
        self.delivered += 1
        logger.info("Pushed %r to %s (%s)", entry.message, entry.repo_id, (sent.commit or "")[:12])
        return True

    def _note(self, entry: Entry, error: Exception) -> None:
        """Decide what a failed attempt means, and write it into the entry."""
        if not isinstance(error, HfplugError):
            # Not of ours: its text may quote anything.
            error = HubError(scrub(f"{type(error).__name__}: {error}"))
        self.error = error
        self._failures += 1
        self._conflicts += isinstance(error, HubConflictError)
        asked = None
        if isinstance(error, HubConflictError) and self._conflicts < self.pace.conflicts:
            pass
        elif isinstance(error, HubError) and error.transient:
            asked = error.retry_after
        else:
            self.stopped = error
        seconds = wait_seconds(
            self._failures,
            retry_after=asked,
            first_wait=self.pace.first_wait,
            longest_wait=self.pace.longest_wait,
            rng=self.rng,
        )
        self.due = time.monotonic() + min(seconds, threading.TIMEOUT_MAX)
        if self.stopped is None:
            logger.info("%s Trying again in %.1f s.", scrub(str(error)), seconds)
        # A full disk makes this note impossible, and is no reason to stop.
        with contextlib.suppress(OSError):
            self.queue.failed(entry, str(error))


@dataclass(frozen=True)
class Flushed:
    """What a flush came to.

    Attributes:
        delivered: Entries that arrived.
        remaining: Entries that still wait, of all queues that were asked for.
        damaged: Folders of entries that were set aside.
        elsewhere: How many of the remaining belong to another Hub than the one that was flushed to.
    """

    delivered: int
    remaining: tuple[Entry, ...]
    damaged: tuple[Path, ...] = ()
    elsewhere: int = 0


def flush_outbox(
    outbox: Outbox | None = None,
    *,
    repo_id: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    seconds: float = FLUSH_SECONDS,
    pace: Pace | None = None,
) -> Flushed:
    """Deliver what waits, in order, also what a permanent failure had stopped.

    Only to the one Hub at ``endpoint``: the token is meant for that, and no other gets to see it.

    Args:
        outbox: The outbox of the environment if not given.
        repo_id: Only what goes to this repo.
        endpoint: Address of the Hub; that of the environment if not given.
        token: Kept in memory only; that of the environment if not given.
        seconds: When to stop waiting. An attempt that is under way then is still finished.
        pace: How long to wait between attempts.

    Raises:
        OutboxError: The outbox cannot be read.
    """
    outbox, pace = outbox or Outbox(), pace or Pace()
    address = hub_address(endpoint)
    wanted = [queue for queue in outbox.queues() if repo_id in (None, queue.repo_id)]
    here = [queue for queue in wanted if queue.endpoint == address]
    send = make_sender(token, timeout=pace.timeout)
    couriers = [Courier(queue, send, pace) for queue in here]
    deadline = time.monotonic() + seconds
    active = couriers
    while active:
        # All of them in turn: a repo that fails does not hold up the others.
        active = [courier for courier in active if courier.attempt()]
        now = time.monotonic()
        due = min((courier.due for courier in active), default=now)
        if due >= deadline or now >= deadline:
            break
        time.sleep(max(0.0, due - now))
    remaining = tuple(entry for queue in wanted for entry in queue.entries())
    return Flushed(
        delivered=sum(courier.delivered for courier in couriers),
        remaining=remaining,
        damaged=tuple(path for courier in couriers for path in courier.damaged),
        elsewhere=sum(len(queue.entries()) for queue in wanted if queue.endpoint != address),
    )


def hub_address(endpoint: str | None = None) -> str:
    """Address of the Hub: the one given, else that of the environment."""
    from huggingface_hub import constants

    # Without a client: a token that cannot be one is found when something is sent, and not here.
    return str(endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def count_pushes(number: int) -> str:
    """``"1 push"``, ``"2 pushes"``."""
    return f"{number} push{'' if number == 1 else 'es'}"


def flush_command(outbox: Outbox, endpoint: str) -> str:
    """What to type to send what waits in an outbox for one Hub, from a shell like this one."""
    words = []
    if outbox.root != default_root():
        words.append(f"HFPLUG_OUTBOX={shlex.quote(str(outbox.root))}")
    if endpoint != hub_address():
        words.append(f"HF_ENDPOINT={shlex.quote(endpoint)}")
    return " ".join([*words, "hfplug outbox flush"])


class BackgroundDelivery:
    """Delivers from one queue in a thread of its own, for as long as a program does something else.

    Args:
        queue: Where from.
        send: How.
        pace: How long to wait.
        say: Called from the thread with each new reason for which nothing arrives.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        send: Sender,
        pace: Pace | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.courier = Courier(queue, send, pace or Pace())
        self._say = say or logger.warning
        self._said: set[str] = set()
        self._changed = threading.Condition()
        self._woken, self._ending, self._idle = True, False, False
        # A daemon: a Hub that hangs must not keep the program from ending. What waits, waits on the disk.
        self._thread = threading.Thread(target=self._run, name="hfplug-outbox", daemon=True)

    def start(self) -> None:
        """Begin to deliver; what an earlier run left in the queue goes first."""
        self._thread.start()

    def wake(self) -> None:
        """Something was put into the queue."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def flush(self, seconds: float) -> None:
        """Wait until nothing is left to deliver, or nothing can be delivered, for at most so many seconds."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self.courier.go_on()
            self._woken, self._idle = True, False
            self._changed.notify_all()
            while not self._idle and self._thread.is_alive():
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(min(left, threading.TIMEOUT_MAX))

    def stop(self, seconds: float = 0.0) -> None:
        """End the thread after the attempt that is under way; wait for that for at most so many seconds."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _run(self) -> None:
        more = True
        while not self._ending:
            try:
                more = self._turn()
            except Exception as error:  # nobody is there to catch it, and the thread has to outlive it
                more = False
                self._tell(error)
            with self._changed:
                if not more:
                    self._idle = not self._woken
                    self._changed.notify_all()
                    self._changed.wait_for(self._has_reason)

    def _turn(self) -> bool:
        """Make an attempt, and wait for the next one if there is to be one."""
        with self._changed:
            self._woken = False
        more = self.courier.attempt()
        if self.courier.error is not None:
            self._tell(self.courier.error)
        with self._changed:
            if more:
                seconds = min(max(0.0, self.courier.due - time.monotonic()), threading.TIMEOUT_MAX)
                self._changed.wait_for(self._is_ending, timeout=seconds)
        return more

    def _is_ending(self) -> bool:
        return self._ending

    def _has_reason(self) -> bool:
        return self._ending or self._woken

    def _tell(self, error: Exception) -> None:
        # By kind and not by text, which may hold a number that is another one each time.
        kind = f"{type(error).__name__} {getattr(error, 'status', None)}"
        if kind not in self._said:
            self._said.add(kind)
            # A mistake in there is no reason to deliver nothing more.
            with contextlib.suppress(Exception):
                self._say(scrub(str(error)))
