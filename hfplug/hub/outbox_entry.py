"""One entry of the outbox: a folder that is whole or not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfplug.adapters import atomic
from hfplug.adapters.files import file_sha256
from hfplug.adapters.record import scrub

Policy = Literal["every", "newest"]
ENTRY, FILES = "entry.json", "files"
# What never changes once the entry is there. The rest is what happened to it since.
_FIXED = (
    "id",
    "endpoint",
    "repo_id",
    "revision",
    "private",
    "message",
    "policy",
    "created",
    "files",
    "checkpoint",
    "source",
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What waits to be pushed.

    Args:
        folder: Where it lies; its name is the number.
        id: Made at random, so that no two entries are mistaken for one another.
        endpoint, repo_id, revision: Where it goes.
        private: ``"on"`` or ``"off"`` for a repo that has to be made; None for the account's default.
        message: First line of the commit.
        policy: ``"every"``: it has to arrive. ``"newest"``: it gives way to a later one.
        created: When it was put in, in UTC, ISO 8601.
        files: Path inside ``files/`` to ``{"sha256", "size"}``.
        checkpoint: Name of the checkpoint that it was made from; None if it was none.
        source: Name of each file of weights there to its sha256. Those pushed are others if their dtype is.
        attempts: How often it was tried to deliver it.
        error: Why the last attempt failed; None if there was none.
        replaces: How many older entries gave way to this one.
        damage: Why ``entry.json`` cannot be believed; None if it can.
    """

    folder: Path
    id: str = ""
    endpoint: str = ""
    repo_id: str = ""
    revision: str = ""
    private: str | None = None
    message: str = ""
    policy: Policy = "every"
    created: str = ""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    checkpoint: str | None = None
    source: Mapping[str, str] = field(default_factory=dict, repr=False)
    attempts: int = 0
    error: str | None = None
    replaces: int = 0
    damage: str | None = None

    __hash__ = None  # type: ignore[assignment]  # it holds a mapping

    @property
    def number(self) -> int:
        """Its place in the queue."""
        return int(self.folder.name)

    @property
    def name(self) -> str:
        """``QUEUE/NUMBER``, as it is typed."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def size(self) -> int:
        """Bytes to be pushed."""
        return sum(int(item["size"]) for item in self.files.values())

    @classmethod
    def open(cls, folder: Path) -> Entry:
        """The entry in a folder; ``damage`` says if it cannot be read."""
        try:
            values = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
            known = {item.name for item in dataclasses.fields(cls)} - {"folder", "damage"}
            entry = cls(folder=folder, **{key: value for key, value in values.items() if key in known})
            sizes = [int(item["size"]) + len(item["sha256"]) for item in entry.files.values()]
            if not sizes or values.get("seal") != _seal(entry):
                return cls(folder=folder, damage=f"{ENTRY} is not as it was written")
        except FileNotFoundError:
            return cls(folder=folder, damage=f"{ENTRY} is missing")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            return cls(folder=folder, damage=f"{ENTRY} cannot be read ({type(error).__name__})")
        return entry

    def write(self, folder: Path) -> None:
        """Write ``entry.json`` into ``folder``: the old one or the new one, whole."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        del values["folder"], values["damage"]
        atomic.write_json(folder / ENTRY, {**values, "error": scrub(self.error), "seal": _seal(self)})

    def verify(self) -> str | None:
        """What is wrong with the bytes on the disk, or None. Reads every file."""
        if self.damage:
            return self.damage
        try:
            there = sum_files(self.folder / FILES)
        except OSError as error:
            return f"{FILES}/ cannot be read: {error.strerror or error}"
        for name in sorted({*there, *self.files}):
            if name not in there:
                return f"{name} is missing"
            if name not in self.files:
                return f"{name} was not there when it was put in"
            if there[name] != self.files[name]:
                return f"{name} is not as it was written"
        return None


def sum_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Path relative to ``folder`` to ``{"sha256", "size"}``, for every file under it."""
    found = {}
    for root, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            path = Path(root, name)
            # A link could be followed to anything on this disk.
            total = "a link" if path.is_symlink() else file_sha256(path)
            found[path.relative_to(folder).as_posix()] = {"sha256": total, "size": path.lstat().st_size}
    if not found:
        raise FileNotFoundError(2, "no such file", str(folder))
    return found


def _seal(entry: Entry) -> str:
    """One sum over everything that never changes, so that a flipped bit in ``entry.json`` is noticed."""
    fixed = json.dumps({name: getattr(entry, name) for name in _FIXED}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(fixed.encode()).hexdigest()
