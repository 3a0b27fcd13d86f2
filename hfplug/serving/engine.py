"""The queue of a service, and the threads that take passes from it."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Hashable, Sequence
from queue import SimpleQueue

from hfplug.errors import QueueFullError, ServingError
from hfplug.serving.info import BatchingDecision, Limits
from hfplug.serving.passes import Job, answer, told
from hfplug.serving.shelf import Shelf, Version
from hfplug.serving.turns import Turns

logger = logging.getLogger(__name__)

_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """Answers requests in the order in which they came, several in one pass where they may share it.

    Each of ``limits.max_passes`` threads takes the request that waits longest and what else may share its pass. They
    are woken by a bell that a request rings when it comes and when it is called off. (Calling off may happen while
    Python frees an object, in the middle of anything, so it must not need the lock; a ``SimpleQueue`` needs none.)

    Args:
        limits: Of the service.
        shelf: The variants.
        turns: For computing.
        decision: Whether variants share passes; may be replaced at any time.
    """

    def __init__(self, limits: Limits, shelf: Shelf, turns: Turns, decision: BatchingDecision) -> None:
        self.limits = limits
        self.shelf = shelf
        self.turns = turns
        self.decision = decision
        self.bell: SimpleQueue[None] = SimpleQueue()
        self._lock = threading.RLock()
        self._queue: list[Job] = []
        self._running: list[Job] = []
        self._threads: list[threading.Thread] = []
        self._max_rows = limits.max_rows
        self._closed = False
        _ENGINES.add(self)

    def ring(self) -> None:
        """Wake a thread. Takes no lock."""
        self.bell.put(None)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        with self._lock:
            return sum(not job.request.over for job in self._queue)

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        with self._lock:
            return sum(not job.request.over for job in self._running)

    @property
    def max_rows(self) -> int:
        """Rows of a pass at most: as allowed, or fewer if memory did not reach for so many."""
        return self._max_rows

    def require_room(self, count: int) -> None:
        """Refuse requests before any work is put into them.

        Raises:
            QueueFullError: The queue has no room for so many.
            ServingError: The service is closed.
        """
        with self._lock:
            self.require_open()
            self._sweep()
            if len(self._queue) + count > self.limits.max_queue:
                raise QueueFullError(
                    f"{len(self._queue)} requests wait already, and {self.limits.max_queue} may.",
                    fix="Try again in a moment.",
                )

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put requests into the queue, all or none.

        Raises:
            QueueFullError, ServingError: As for :meth:`require_room`.
        """
        with self._lock:
            self.require_room(len(jobs))
            # A thread may be gone: with a fork of the process, or because Python had no memory for it.
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            while len(self._threads) < self.limits.max_passes:
                thread = threading.Thread(target=self._serve, name="hfplug-pass", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads: one is enough
                    if not self._threads:
                        raise
                    break
                self._threads.append(thread)
            self._queue = [*self._queue, *jobs]
        self.ring()

    def close(self) -> None:
        """End everything: what waits and what is being written gets an error, and the threads end."""
        self.abandon()
        with self._lock:
            threads = list(self._threads)
            self._end_queue()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout=60)

    def abandon(self) -> None:
        """The same without waiting for anything: for a service that is being freed, in the middle of anything."""
        self._closed = True
        for job in list(self._running):
            job.request.fail(closed_error())
            job.request.called_off = True
        for _ in range(self.limits.max_passes):
            self.ring()

    def require_open(self) -> None:
        """Refuse what a closed service cannot do.

        Raises:
            ServingError: The service is closed.
        """
        if self._closed:
            raise closed_error()

    # --------------------------------------------------------------------------------------------- threads

    def _serve(self) -> None:
        while True:
            self.bell.get()
            jobs = self._take()
            if jobs is None:
                return
            if jobs:
                self._run(jobs)

    def _take(self) -> list[Job] | None:
        """The next pass: perhaps empty; None if the service is closed."""
        with self._lock:
            if self._closed:
                self._end_queue()
                return None
            self._sweep()
            if not self._queue:
                return []
            first = self._queue[0]
            key = self._share_key(first)
            sharing = [job for job in self._queue if self._share_key(job) == key]
            # Its own variant's first: the fewer variants in a pass, the less there is to route.
            jobs = sorted(sharing, key=lambda job: job.version is not first.version)[: self._max_rows]
            chosen = set(map(id, jobs))
            self._queue = [job for job in self._queue if id(job) not in chosen]
            self._running.extend(jobs)
            if self._queue:
                self.ring()
            return jobs

    def _share_key(self, job: Job) -> Hashable:
        mixed = self.decision.mode == "mixed"
        group = self.shelf.group_of(job.version) if mixed else (job.version.recipe, job.version.key)
        return group, job.settled.sharing_key(), job.stops

    def _run(self, jobs: list[Job]) -> None:
        versions = list({id(job.version): job.version for job in jobs}.values())
        later: list[Version] = []
        if self._closed:  # since they were taken from the queue
            for job in jobs:
                job.request.fail(closed_error())
        try:
            held = self.shelf.hold(versions)
            later.extend(held.later)
            try:
                for version, error in held.failed:
                    for job in jobs:
                        if job.version is version:
                            job.request.fail(told(error, job))
                here = [job for job in jobs if job.version in held.present]
                if here:
                    fitting = answer(here[0].version.resident, here, self.turns)
                    if fitting is not None:
                        self._max_rows = min(self._max_rows, fitting)
            finally:
                self.shelf.release(held.present)
        except BaseException as error:  # this thread has to go on, whatever happened
            logger.exception("A pass could not be run.")
            for job in jobs:
                if job.version not in later:
                    job.request.fail(told(error, job))
        finally:
            self._settle(jobs, later)

    def _settle(self, jobs: list[Job], later: list[Version]) -> None:
        """After a pass: what had no room goes back to the front of the queue, the rest is over."""
        back = [job for job in jobs if job.version in later]
        with self._lock:
            done = set(map(id, jobs))
            self._running = [job for job in self._running if id(job) not in done]
            self._queue = [*back, *self._queue]
            if self._closed:
                self._end_queue()
        for job in jobs:
            if job.version not in later:
                job.request.fail(ServingError(f"{job.request.name!r} was not answered."))  # of no effect if it was
                self.shelf.leave(job.version)
        if back:
            self.ring()

    def _end_queue(self) -> None:
        """Tell all that wait that the service is closed. Under the lock."""
        for job in self._queue:
            job.request.fail(closed_error())
        self._sweep()

    def _sweep(self) -> None:
        """Take out of the queue what was called off. Under the lock."""
        over = [job for job in self._queue if job.request.over]
        if over:
            self._queue = [job for job in self._queue if not job.request.over]
            for job in over:
                self.shelf.leave(job.version)


@atexit.register
def _close_all() -> None:
    # A thread that computes while Python takes itself apart can bring the process down.
    for engine in list(_ENGINES):
        engine.close()


def closed_error() -> ServingError:
    """The service is closed."""
    return ServingError("The service is closed.", fix="Make a new Service.")
