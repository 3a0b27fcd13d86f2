"""Where a repo of the loopback Hub keeps bytes: each content once, under its sha256, whole or not at all.

Every repo has a store of its own. That costs a copy where two repos hold the same file, and buys two things:
knowing the sha256 of somebody's private file does not help to read it, and deleting a repo deletes its bytes.

    objects/ab/cdef…        the content with sha256 abcdef…
    objects/ab/cdef….xet    its Xet hash, as text (only if it came, or was asked for, through Xet)
    incoming/               being written; emptied when the store is opened by a server
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from hfplug.adapters import atomic

SHA256 = re.compile(r"[0-9a-f]{64}")


class WrongContentError(ValueError):
    """What was written does not have the sha256 or the size that was announced."""


class ObjectStore:
    """The contents of one repo.

    Args:
        folder: The repo's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where the content with this sha256 lies or would lie.

        Raises:
            ValueError: ``sha256`` is not 64 lower-case hex digits (so that no path can be smuggled in).
        """
        if not SHA256.fullmatch(sha256):
            raise ValueError(f"a sha256 is 64 hex digits; this is {sha256[:80]!r}")
        return self.folder / "objects" / sha256[:2] / sha256[2:]

    def has(self, sha256: str) -> bool:
        """Whether the whole content is there."""
        return self.path(sha256).is_file()

    def size(self, sha256: str) -> int:
        """Bytes of a content that is there."""
        return self.path(sha256).stat().st_size

    def read(self, sha256: str) -> bytes:
        """A content that is there, at once."""
        return self.path(sha256).read_bytes()

    def open(self, sha256: str) -> BinaryIO:
        """A content that is there, for reading piece by piece."""
        return open(self.path(sha256), "rb")

    def put(self, data: bytes) -> str:
        """Keep a content; returns its sha256. It is on the disk when this returns."""
        with self.writer() as writer:
            writer.write(data)
            return writer.keep()

    def writer(self) -> ObjectWriter:
        """For a content that comes piece by piece; see :class:`ObjectWriter`."""
        return ObjectWriter(self)

    def xet_hash(self, sha256: str) -> str | None:
        """The Xet hash that was noted for a content, or None."""
        note = self.path(sha256).with_suffix(".xet")
        return note.read_text(encoding="ascii") if note.is_file() else None

    def note_xet_hash(self, sha256: str, xet_hash: str) -> None:
        """Note the Xet hash of a content; tree and paths-info show it as ``xetHash``, resolve as ``X-Xet-Hash``."""
        if not SHA256.fullmatch(xet_hash):
            raise ValueError(f"a Xet hash is 64 hex digits; this is {xet_hash[:80]!r}")
        make_inside(self.folder, self.path(sha256).parent)
        atomic.write_text(self.path(sha256).with_suffix(".xet"), xet_hash)

    def forget_xet_hash(self, sha256: str) -> None:
        """Take back the note, if there is one: clients then get the content like every other."""
        self.path(sha256).with_suffix(".xet").unlink(missing_ok=True)

    def forget_xet_notes_of(self, xet_hash: str) -> None:
        """Take back every note of a Xet hash, where it is not known of which content it was."""
        for note in self.folder.glob("objects/??/*.xet"):
            if note.read_text(encoding="ascii", errors="replace") == xet_hash:
                note.unlink()

    def sweep(self) -> None:
        """Delete what a killed process left half-written. Only while nothing is being written."""
        shutil.rmtree(self.folder / "incoming", ignore_errors=True)


class ObjectWriter:
    """Writes one content; gone again unless ``keep`` was called before the ``with`` block ends.

    with repo.objects.writer() as writer:
        for piece in pieces:
            writer.write(piece)
        sha256 = writer.keep(expected_sha256)
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        make_inside(store.folder, store.folder / "incoming")
        self._path = store.folder / "incoming" / secrets.token_hex(16)
        self._file = open(self._path, "xb")  # noqa: SIM115 - closed by __exit__
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def keep(self, expected: str | None = None, size: int | None = None) -> str:
        """Make the content part of the store; it is on the disk when this returns.

        Args:
            expected: The sha256 that was announced. size: The bytes that were announced.

        Returns:
            The sha256.

        Raises:
            WrongContentError: Other bytes came than were announced. Nothing is kept.
        """
        sha256 = self._digest.hexdigest()
        if expected is not None and sha256 != expected:
            raise WrongContentError(f"the bytes that came have sha256 {sha256}, not {expected}")
        if size is not None and size != self.size:
            raise WrongContentError(f"{self.size} bytes came, not {size}")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        target = self._store.path(sha256)
        make_inside(self._store.folder, target.parent)
        os.replace(self._path, target)
        atomic.sync_folder(target.parent)
        return sha256

    def __enter__(self) -> ObjectWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def make_inside(base: Path, folder: Path) -> None:
    """Make a folder inside ``base``, and never ``base`` itself: a repo that is deleted meanwhile stays deleted.

    Raises:
        FileNotFoundError: There is no ``base`` (any more).
    """
    if folder.is_dir():
        return
    if folder.parent != base:
        make_inside(base, folder.parent)
    folder.mkdir(exist_ok=True)
    atomic.sync_folder(folder.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each of them flushed to the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    atomic.sync_folder(folder.parent)
