"""Votes of the blind mode: kept as JSON lines in a file, and counted.

Each vote is one line, added under a lock and flushed to the disk, so that several processes may write to the same file.
A line that was cut short (the machine went down) is left out when votes are read. Words of people (the dialogue, the
answers) are not part of a vote unless the Space's settings say so. Votes for a dataset repo: ``ballot_box.py``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import Any

from filelock import FileLock

from hfplug.errors import SpaceError

logger = logging.getLogger(__name__)

VOTE_VERSION = 1
TIE, NEITHER = "tie", "neither"
_LONGEST_LINE = 1 << 20
_LOCK_SECONDS = 30.0
# 95 %: the 97.5th percentile of the normal distribution.
_Z = 1.959963984540054


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One vote.

    Attributes:
        shown: Names of the columns in the order in which they were seen; two or more.
        choice: The one that was preferred, or ``"tie"`` (all equally good) or ``"neither"`` (none is good).
        example: Name of the example, or None for a dialogue of the visitor's own.
        task: Name of the task.
        decoding: Settings, the seed among them.
        commits: Column to the commit that it was read at, where there is one.
        base: Name of the base.
        session: A random word, the same for all votes of one visit; nothing about the person.
        dialogue: The text that was answered, if the Space keeps it.
        answers: Column to its text, if the Space keeps them.
        id, time: Given when the vote is made.
    """

    shown: tuple[str, ...]
    choice: str
    example: str | None = None
    task: str | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    commits: Mapping[str, str] = field(default_factory=dict)
    base: str | None = None
    session: str | None = None
    dialogue: str | None = None
    answers: Mapping[str, str] | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    time: str = field(default_factory=_now)
    vote_version: int = VOTE_VERSION

    __hash__ = None  # type: ignore[assignment]  # it holds mappings

    def __post_init__(self) -> None:
        names = set(self.shown)
        if len(self.shown) < 2 or len(names) < len(self.shown) or names & {TIE, NEITHER}:
            raise SpaceError("A vote needs two or more different columns.")
        if self.choice not in (*self.shown, TIE, NEITHER):
            raise SpaceError(
                "A vote is for a column that was shown, or 'tie' or 'neither'.", fix="Compare again, then vote."
            )

    def to_json(self) -> dict[str, Any]:
        """JSON values; ``from_json`` gives an equal vote back. What is None is left out."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {"vote_version": values.pop("vote_version"), **values, "shown": list(self.shown)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Vote:
        """The vote that ``to_json`` described. Keys of later versions are left out.

        Raises:
            SpaceError: It is no vote.
        """
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        texts = ("choice", "example", "task", "base", "session", "dialogue", "id", "time")
        shown = known.get("shown")
        right = isinstance(shown, (list, tuple)) and all(isinstance(name, str) for name in shown)
        right = right and all(isinstance(known[name], str) for name in texts if name in known)
        right = right and all(isinstance(known.get(name, {}), Mapping) for name in ("decoding", "commits", "answers"))
        if not right or "choice" not in known:
            raise SpaceError("This is no vote.")
        return cls(**{**known, "shown": tuple(known["shown"])})


@dataclass(frozen=True)
class Pair:
    """How two columns did against one another.

    Attributes:
        first, second: Their names.
        first_wins, second_wins: Votes for one of them while both were shown.
        ties: Votes while both were shown that preferred neither of the two.
        share: Of ``first_wins`` in the decided votes; None if there are none.
        low, high: Its 95 % interval (Wilson's score interval); None if there are none.
    """

    first: str
    second: str
    first_wins: int
    second_wins: int
    ties: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class VoteSummary:
    """What the votes say.

    Attributes:
        votes: How many there are.
        wins: Column to the votes for it.
        shown: Column to the votes in which it was shown.
        ties, neither: Votes of these kinds.
        pairs: Every two columns that were shown together.
    """

    votes: int
    wins: Mapping[str, int]
    shown: Mapping[str, int]
    ties: int
    neither: int
    pairs: tuple[Pair, ...]

    __hash__ = None  # type: ignore[assignment]  # it holds mappings


class VoteFile:
    """Votes in one JSON lines file.

    Args:
        path: The file; it and its folder are made with the first vote.
        keep_text: ``"on"`` keeps dialogue and answers; ``"off"`` takes them out of every vote.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_text: str = "off") -> None:
        self.path = Path(path)
        self.keep_text = keep_text

    def add(self, vote: Vote) -> None:
        """Add a vote; it is on the disk when this returns.

        Raises:
            SpaceError: The file cannot be written to.
        """
        line = vote_line(vote, keep_text=self.keep_text)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with lock_of(self.path):
                append_line(self.path, line)
        except (OSError, TimeoutError) as error:
            logger.warning("A vote could not be written to %s: %s", self.path, error)
            raise SpaceError("The vote could not be kept: its file cannot be written to.") from None

    def votes(self) -> Iterator[Vote]:
        """All votes of the file, oldest first. A line that is none is left out, and logged."""
        yield from read_votes(self.path)

    def summary(self) -> VoteSummary:
        """What they say."""
        return summarize(self.votes())

    def close(self) -> None:
        """Nothing is left to be done: each vote is on the disk already."""


def summarize(votes: Iterable[Vote]) -> VoteSummary:
    """Counts, and for every two columns how often one was preferred, with an interval.

    A vote for one of several columns counts as a win over each of the others. A vote with the id of an earlier one is
    that one again, and is not counted.
    """
    wins: dict[str, int] = {}
    shown: dict[str, int] = {}
    pairs: dict[tuple[str, str], list[int]] = {}
    kinds = {TIE: 0, NEITHER: 0}
    seen: set[str] = set()
    for vote in votes:
        if vote.id in seen:
            continue
        seen.add(vote.id)
        for name in vote.shown:
            shown[name] = shown.get(name, 0) + 1
        if vote.choice in kinds:
            kinds[vote.choice] += 1
        else:
            wins[vote.choice] = wins.get(vote.choice, 0) + 1
        for first, second in combinations(sorted(vote.shown), 2):
            counts = pairs.setdefault((first, second), [0, 0, 0])
            counts[{first: 0, second: 1}.get(vote.choice, 2)] += 1
    rows = tuple(_pair(*names, *counts) for names, counts in sorted(pairs.items()))
    return VoteSummary(len(seen), wins, shown, kinds[TIE], kinds[NEITHER], rows)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927): it stays within 0 and 1, also for few votes.

    Args:
        successes: 0 to ``trials``.
        trials: At least 1.
    """
    share = successes / trials
    middle = share + _Z**2 / (2 * trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    scale = 1 + _Z**2 / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _pair(first: str, second: str, first_wins: int, second_wins: int, ties: int) -> Pair:
    decided = first_wins + second_wins
    if not decided:
        return Pair(first, second, 0, 0, ties, None, None, None)
    return Pair(first, second, first_wins, second_wins, ties, first_wins / decided, *wilson(first_wins, decided))


# -------------------------------------------------------------------------------------------------- lines


def vote_line(vote: Vote, *, keep_text: str) -> bytes:
    """A vote as one line."""
    values = vote.to_json()
    if keep_text != "on":
        values.pop("dialogue", None)
        values.pop("answers", None)
    if Path(values.get("base") or "").is_absolute():
        values["base"] = Path(values["base"]).name  # where it lies on this machine is nobody's business
    # Half a surrogate pair in a pasted text is no reason to lose a vote.
    return json.dumps(values, ensure_ascii=False).encode("utf-8", errors="backslashreplace") + b"\n"


def lock_of(path: Path) -> FileLock:
    """The lock of a file of votes; other processes respect it too."""
    return FileLock(f"{path}.lock", timeout=_LOCK_SECONDS)


def append_line(path: Path, line: bytes) -> None:
    """Add a line, on the disk when this returns. Whoever calls holds the lock."""
    with open(path, "ab") as file:
        if file.tell() and not _ends_with_line(path):
            file.write(b"\n")  # a machine went down in the middle of a line: the next vote starts on its own
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _ends_with_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_votes(path: Path) -> Iterator[Vote]:
    """The votes of a file; none if it is not there."""
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed below; a missing file is no error)
    except OSError:
        return
    damaged = 0
    with file:
        while line := file.readline(_LONGEST_LINE):
            try:
                yield Vote.from_json(json.loads(line))
            except (ValueError, RecursionError, SpaceError, AttributeError, TypeError):
                damaged += 1
    if damaged:
        logger.warning("%s: %d lines are no votes, and were left out.", path, damaged)
