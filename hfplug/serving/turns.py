"""Turns at computing: one thread at a time, and whoever waits longest is next."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class Turns:
    """A lock that is handed on in the order of asking.

    Two passes that generate at once would share the same cores (or the same accelerator) and both be late. With a
    turn for each token they advance side by side at the speed of one. A plain ``threading.Lock`` will not do: the
    thread that lets go of it usually has it again before another one wakes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    def take(self) -> None:
        """Wait for a turn."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        try:
            mine.wait()
        except BaseException:  # Ctrl-C: a turn that nobody takes would stop everybody
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                    raise
            self.give()
            raise

    def give(self) -> None:
        """End one's turn."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False

    @contextlib.contextmanager
    def mine(self) -> Iterator[None]:
        """A turn for the time of the block."""
        self.take()
        try:
            yield
        finally:
            self.give()

    @contextlib.contextmanager
    def let_others(self) -> Iterator[None]:
        """Inside a turn: others may compute for the time of the block; then it is one's turn again."""
        self.give()
        try:
            yield
        finally:
            self.take()
