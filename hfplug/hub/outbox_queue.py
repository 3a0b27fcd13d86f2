"""One queue of the outbox: entries in the order of their numbers, under two locks.

``put.lock`` is held while a number is given out, ``deliver.lock`` while one entry is being delivered. The
kernel lets go of both when their process dies. A process that is killed leaves either a whole entry, or a
half-built folder under a temporary name, which the next ``put`` or delivery deletes. An entry is taken away only
after ``delivered.jsonl`` says what became of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from hfplug.adapters import atomic
from hfplug.adapters.record import scrub, utc_now
from hfplug.errors import AdapterError, OutboxError
from hfplug.hub.outbox_entry import FILES, Entry, Policy, sum_files

_NUMBER = re.compile(r"\d{6,}")
_PUT_SECONDS = 30.0
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class BusyError(Exception):
    """Another process, or another thread, is delivering from this queue."""


@dataclass(frozen=True)
class Queue:
    """The entries for one branch of one repo. Made by :class:`~hfplug.hub.outbox.Outbox`.

    Args:
        folder: Where it lies. It need not exist.
        endpoint, repo_id, revision: Where its entries go.
    """

    folder: Path
    endpoint: str
    repo_id: str
    revision: str

    # ------------------------------------------------------------------------------------------------ putting

    def put(
        self,
        fill: Callable[[Path], Any],
        *,
        message: str,
        policy: Policy = "every",
        private: str | None = None,
        checkpoint: str | None = None,
        source: Mapping[str, str] | None = None,
    ) -> Entry:
        """Put a push into the queue. When this returns, the entry is whole and flushed to the disk.

        Args:
            fill: Writes the files to be pushed into the empty folder that it is given.
            message: First line of the commit.
            policy: ``"newest"``: older entries of that kind, not delivered yet, give way to this one.
            private: ``"on"`` or ``"off"`` for a repo that has to be made.
            checkpoint: Name of the checkpoint that it is made from, for :meth:`took`.
            source: Name of each file of weights there to its sha256.

        Raises:
            OutboxError: The disk is full, or the outbox cannot be written.
            AdapterError: ``fill`` cannot read what is to be pushed: it is gone, say.
        """
        with self._usable():
            self._make_folder()
            building = atomic.make_temporary_folder(self.folder / "entry")
            try:
                files = building / FILES
                files.mkdir()
                with atomic.flushed_later(), self._readable():
                    fill(files)
                entry = Entry(
                    folder=building,
                    id=uuid.uuid4().hex,
                    endpoint=self.endpoint,
                    repo_id=self.repo_id,
                    revision=self.revision,
                    private=private,
                    message=scrub(message),
                    policy=policy,
                    created=utc_now(),
                    files=sum_files(files),
                    checkpoint=checkpoint,
                    source=dict(source or {}),
                )
                entry.write(building)
                atomic.sync_tree(files)
                with self._lock("put.lock", _PUT_SECONDS):
                    place = self.folder / f"{self._next_number():06d}"
                    atomic.replace_folder(building, place)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
        if policy == "newest":
            # If somebody is delivering just now, or the disk is full, it is done before the next delivery.
            with contextlib.suppress(BusyError, OutboxError), self.delivering():
                self.drop_replaced()
        return Entry.open(place)

    def took(self, checkpoint: str, source: Mapping[str, str]) -> bool:
        """Whether a checkpoint with these very weights waits here, or has left here as it was meant to.

        Args:
            checkpoint: Its name.
            source: Name of each file of its weights to its sha256.
        """
        waiting = [(entry.checkpoint, entry.source) for entry in self.entries()]
        # One that was damaged on this disk has not left as it was meant to.
        gone = [line for line in self.history() if line.get("outcome") in ("delivered", "replaced", "dropped")]
        return (checkpoint, dict(source)) in [
            *waiting,
            *((line.get("checkpoint"), line.get("source")) for line in gone),
        ]

    # ------------------------------------------------------------------------------------------------ looking

    def entries(self) -> list[Entry]:
        """What waits, in order; those that cannot be read say so (``Entry.damage``)."""
        return [Entry.open(folder) for folder in _numbered(self.folder)]

    def set_aside(self) -> list[Path]:
        """Folders of entries that were damaged, or dropped by a person."""
        return _numbered(self.folder / "aside")

    def history(self) -> list[dict[str, Any]]:
        """The lines of ``delivered.jsonl``, oldest first. A line that was cut short by a kill is left out."""
        try:
            lines = (self.folder / "delivered.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                found += [value] if isinstance(value, dict) else []
        return found

    # ------------------------------------------------------------------------------------------------ delivering

    @contextlib.contextmanager
    def delivering(self) -> Iterator[None]:
        """Hold the right to deliver from this queue, and clear what dead processes left half-built.

        Raises:
            BusyError: Somebody else holds it.
            OutboxError: The outbox cannot be written.
        """
        with self._usable():
            self._make_folder()
            lock = self._lock("deliver.lock", 0)
            try:
                lock.acquire()
            except Timeout as error:
                raise BusyError from error
            try:
                atomic.sweep(self.folder / "entry")
                yield
            finally:
                lock.release()

    def first(self) -> Entry | None:
        """The entry whose turn it is. One that was delivered by a process killed just after is taken away."""
        gone: set[Any] | None = None
        for folder in _numbered(self.folder):
            entry = Entry.open(folder)
            if gone is None:
                gone = {line.get("id") for line in self.history() if line.get("outcome") in ("delivered", "replaced")}
            if entry.damage or entry.id not in gone:
                return entry
            self._remove(entry)
        return None

    def failed(self, entry: Entry, error: str) -> None:
        """Note a failed attempt in the entry, which stays where it is."""
        dataclasses.replace(entry, attempts=entry.attempts + 1, error=scrub(error)).write(entry.folder)

    def delivered(self, entry: Entry, *, commit: str | None, url: str | None) -> None:
        """Note that the Hub has confirmed an entry, and take it away.

        Args:
            entry: The one that was sent.
            commit: The commit that holds it.
            url: Its address.
        """
        values = {"outcome": "delivered", "commit": commit, "url": url, "attempts": entry.attempts + 1}
        # Without a line (a full disk) it is taken away all the same: it must not be pushed again.
        with contextlib.suppress(OSError):
            self._note(entry, **values)
        self._remove(entry)

    def drop_replaced(self) -> int:
        """Delete the entries that gave way to a newer one (policy ``"newest"``), and say how many there were."""
        newest = [entry for entry in self.entries() if entry.policy == "newest" and not entry.damage]
        if len(newest) < 2:
            return 0
        *older, last = newest
        count = sum(1 + entry.replaces for entry in older)
        # On a full disk the notes are impossible, and the room is needed.
        with contextlib.suppress(OSError):
            dataclasses.replace(last, replaces=last.replaces + count).write(last.folder)
        for entry in older:
            with contextlib.suppress(OSError):
                self._note(entry, outcome="replaced", by=last.folder.name)
            self._remove(entry)
        return count

    def put_aside(self, entry: Entry, reason: str, *, outcome: Literal["set aside", "dropped"] = "set aside") -> Path:
        """Move an entry out of the queue. It is neither sent nor deleted.

        Args:
            entry: A damaged one, or one that a person does not want sent.
            reason: What is written beside it.
            outcome: ``"dropped"`` if a person does not want it sent.

        Returns:
            Where it is now.
        """
        aside = self.folder / "aside"
        aside.mkdir(exist_ok=True)
        place = aside / entry.folder.name
        for number in itertools.count(2):
            if not os.path.lexists(place):
                break
            place = aside / f"{entry.folder.name}-{number}"
        os.rename(entry.folder, place)
        atomic.sync_folder(aside)
        atomic.sync_folder(self.folder)
        atomic.write_text(place / "why.txt", scrub(reason) + "\n")
        self._note(entry, outcome=outcome, reason=scrub(reason))
        return place

    # ------------------------------------------------------------------------------------------------ inside

    def _make_folder(self) -> None:
        # What is pushed to a private repo is nobody else's on this machine either.
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if not (self.folder / "queue.json").is_file():
            values = {"endpoint": self.endpoint, "repo_id": self.repo_id, "revision": self.revision}
            atomic.write_json(self.folder / "queue.json", values)

    def _lock(self, name: str, seconds: float) -> FileLock:
        return FileLock(self.folder / name, timeout=seconds)

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        from hfplug.hub.outbox import unreadable  # which knows this module

        try:
            yield
        except Timeout as error:
            raise OutboxError(f"Another process has been writing to {self.folder} for {_PUT_SECONDS:.0f} s.") from error
        except OSError as error:
            raise unreadable(self.folder, error) from error

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Tell what is wrong with the source of an entry from what is wrong with the outbox."""
        try:
            yield
        except (OSError, AdapterError) as raised:
            error = raised.__cause__ if isinstance(raised, AdapterError) else raised
            if not isinstance(error, OSError):
                raise
            paths = [Path(os.fsdecode(p)) for p in (error.filename, error.filename2) if isinstance(p, (str, bytes))]
            outbox = self.folder.resolve()
            # A write that fails for want of room names no file.
            if any(outbox in path.resolve().parents for path in paths) or (not paths and error.errno in _NO_ROOM):
                raise error from None
            if isinstance(raised, AdapterError):
                raise
            what = f"{paths[0]} cannot be read" if paths else "What is to be pushed cannot be read"
            raise AdapterError(f"{what}: {error.strerror or error}.", fix="Is it still there?") from error

    def _next_number(self) -> int:
        folders = [*_numbered(self.folder), *_numbered(self.folder / "aside")]
        taken = [int(folder.name.partition("-")[0]) for folder in folders]
        taken += [int(line["entry"]) for line in self.history() if str(line.get("entry")).isdigit()]
        return max(taken, default=0) + 1

    def _note(self, entry: Entry, **values: Any) -> None:
        """Add a line to ``delivered.jsonl``, flushed; on a line of its own even after one that was cut short."""
        files = {name: item["sha256"] for name, item in entry.files.items()}
        line = {"entry": entry.folder.name, "id": entry.id, **values}
        line |= {"message": entry.message, "created": entry.created, "time": utc_now(), "files": files}
        line |= {"checkpoint": entry.checkpoint, "source": dict(entry.source)}
        with open(self.folder / "delivered.jsonl", "ab+") as file:
            start = b""
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                start = b"" if file.read(1) == b"\n" else b"\n"
            file.write(start + json.dumps(line, ensure_ascii=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _remove(self, entry: Entry) -> None:
        # Renamed first: a kill in the middle of deleting must not leave half an entry under its name.
        trash = atomic.make_temporary_name(self.folder / "entry", "new")
        os.rename(entry.folder, trash)
        atomic.sync_folder(self.folder)
        shutil.rmtree(trash, ignore_errors=True)


def _numbered(folder: Path) -> list[Path]:
    """Folders whose names are numbers, in their order; ``000012-2`` counts where entries are set aside."""
    try:
        found = [path for path in folder.iterdir() if _NUMBER.fullmatch(path.name.partition("-")[0]) and path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    if folder.name != "aside":
        found = [path for path in found if path.name.isdigit()]
    return sorted(found, key=lambda path: (int(path.name.partition("-")[0]), path.name))
