"""What one visitor's session remembers: the runs made in it, and blind rounds that wait for their vote.

A session belongs to one browser tab, is found by the random word that its page draws, and is never sent to it. Nothing
is shared between visitors. In :class:`BlindRounds` a program that calls the API finds its round again by an id that
cannot be guessed.
"""

from __future__ import annotations

import datetime
import random
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hfplug.errors import ServingError
from hfplug.space.columns import Column
from hfplug.space.view import blind_label
from hfplug.space.votes import NEITHER, TIE

RUNS_KEPT = 20
ROUNDS_KEPT = 1000
SESSIONS_KEPT = 2000
SESSION_SECONDS = 4 * 3600.0
Blind = Literal["no", "open", "revealed"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One comparison: what was asked, with which settings, and the columns in the order in which they were shown.

    Attributes:
        id: Cannot be guessed, so that it may stand in an answer of the API.
        dialogue: What was asked.
        references: What a person wrote; may be empty.
        task: Name of the task whose prompt was used, or None where each column used its own.
        decoding: The settings of the answer, JSON values.
        columns: As they ended.
        example: Id of the example, or None for a pasted dialogue.
        blind: ``"no"``; ``"open"``: names are still hidden; ``"revealed"``: after the vote.
        choice: Name of the variant that was voted for, ``"tie"``, ``"neither"``, or None.
        at: When, UTC, ISO 8601.
    """

    dialogue: str
    references: tuple[str, ...] = ()
    task: str | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    example: str | None = None
    blind: Blind = "no"
    choice: str | None = None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    at: str = field(default_factory=lambda: _now())

    @property
    def labels(self) -> tuple[str, ...]:
        """What the columns are called in a blind round, in their order."""
        return tuple(blind_label(at) for at in range(len(self.columns)))

    def variant_behind(self, label: str) -> str:
        """Name of the variant that a blind label stands for; ``"tie"`` and ``"neither"`` stay what they are.

        Raises:
            ServingError: There is no such label in this run.
        """
        if label in (TIE, NEITHER):
            return label
        if label not in self.labels:
            choices = ", ".join((*self.labels, TIE, NEITHER))
            raise ServingError(f"{label!r} is not an answer of this round.", fix=f"Vote for one of: {choices}.")
        return self.columns[self.labels.index(label)].name

    def revealed(self, choice: str | None) -> Run:
        """The run with its names shown, and what was voted for."""
        return replace(self, blind="revealed", choice=choice)

    def title(self) -> str:
        """One line for the list of runs: when, the start of the dialogue, how many columns."""
        start = " ".join(self.dialogue.split())
        start = start if len(start) <= 48 else f"{start[:47]}…"
        return f"{self.at[11:16]} · {start} · {len(self.columns)} columns"


@dataclass(frozen=True, kw_only=True)
class Session:
    """The runs of one browser tab, the oldest first, and the one that is shown.

    Attributes:
        runs: At most the last twenty; no round whose names are still hidden.
        shown: What the page shows now.
        added: Adapters that were added in this tab.
        id: A random word, the same for all votes of this visit; nothing about the person.
    """

    runs: tuple[Run, ...] = ()
    shown: Run | None = None
    added: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))

    def with_run(self, run: Run) -> Session:
        """The session after a run: shown, and in the history unless its names are still hidden."""
        if run.blind == "open":
            return replace(self, shown=run)
        others = tuple(other for other in self.runs if other.id != run.id)
        return replace(self, runs=(*others, run)[-RUNS_KEPT:], shown=run)

    def run(self, run_id: str) -> Run | None:
        """The run of that id, or None."""
        return next((run for run in self.runs if run.id == run_id), None)


class Sessions:
    """The sessions of all tabs. The oldest are forgotten: after some hours without a sign, or if there are too many.

    Args:
        most: Sessions that are kept.
        seconds: How long one is kept that nobody uses.
    """

    def __init__(self, most: int = SESSIONS_KEPT, seconds: float = SESSION_SECONDS) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[str, tuple[float, Session]] = OrderedDict()
        self._most, self._seconds = most, seconds

    def of(self, tab: str) -> Session:
        """The session of a tab; an empty one if it is new."""
        return self.change(tab, lambda session: session)

    def change(self, tab: str, how: Callable[[Session], Session]) -> Session:
        """Replace the session of a tab by what ``how`` makes of it, and give that."""
        now = time.monotonic()
        with self._lock:
            session = how(self._found.pop(tab, (0.0, None))[1] or Session())
            self._found[tab] = (now, session)
            while len(self._found) > self._most or next(iter(self._found.values()))[0] < now - self._seconds:
                self._found.popitem(last=False)
        return session


class BlindRounds:
    """Blind rounds that were asked for over the API and wait for their vote; the oldest are forgotten."""

    def __init__(self, most: int = ROUNDS_KEPT) -> None:
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._most = most

    def put(self, run: Run) -> None:
        """Remember a run until its vote."""
        with self._lock:
            self._runs[run.id] = run
            while len(self._runs) > self._most:
                self._runs.popitem(last=False)

    def take(self, run_id: str) -> Run:
        """The run of that id, which is forgotten: a round is voted on once.

        Raises:
            ServingError: There is none, or it was voted on already.
        """
        with self._lock:
            return self._known(self._runs.pop(run_id, None))

    def look(self, run_id: str) -> Run:
        """The run of that id, which stays.

        Raises:
            ServingError: There is none, or it was voted on already.
        """
        with self._lock:
            return self._known(self._runs.get(run_id))

    @staticmethod
    def _known(run: Run | None) -> Run:
        if run is None:
            raise ServingError(
                "There is no open blind round of that id; a round is voted on once.",
                fix="Call /compare with blind='on' and take the id from its answer.",
            )
        return run


def shuffled(names: Sequence[str]) -> list[str]:
    """The names in an order that nobody can foresee, whatever the seed of the answers is."""
    order = list(names)
    random.SystemRandom().shuffle(order)
    return order


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
