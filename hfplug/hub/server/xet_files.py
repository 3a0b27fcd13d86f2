"""The files of a repo that came through Xet: taken in from a shard, and told to a client that downloads one.

    xet/ab/cdef…    SHA-256 (32) | for each term: xorb hash (32), first chunk (4), end (4), bytes of content (4)

in the repo's folder, under the file's Xet hash. The content itself is in the repo's store as well, like every
other file's, so that a client without Xet gets it as always.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hfplug.adapters import atomic
from hfplug.hub.server.store import SHA256, ObjectStore, WrongContentError, make_inside
from hfplug.hub.server.xet_formats import Shard, ShardFile, Term, XetFormatError
from hfplug.hub.server.xet_hashes import HASH_BYTES, Leaf, hash_file, hash_range, to_text
from hfplug.hub.server.xet_store import XorbIndex, XorbStore

# Of all files of one shard. The Hub's own limit for one file, and twice the chunks that it usually has.
MOST_BYTES = 500 * 10**9
MOST_CHUNKS = 1 << 24

_TERM = struct.Struct("<32sIII")
_SPARE_BYTES = 1 << 30  # what taking in a file has to leave free on the disk


class ShardError(ValueError):
    """A shard is well-formed and not true: an unknown xorb, a wrong hash, a file that is too large."""


class NoSpaceError(OSError):
    """The disk has no room for a file that a shard describes."""


@dataclass(frozen=True)
class Piece:
    """One term of a download, cut to what was asked for: the chunks ``[start, end)`` of a xorb."""

    xorb: bytes
    start: int
    end: int
    size: int


@dataclass(frozen=True)
class Plan:
    """How to download a file, or a range of it.

    Args:
        skip: Bytes of the first piece's content that come before what was asked for.
        pieces: What to fetch and to put together, in order.
    """

    skip: int
    pieces: list[Piece]


class RangeError(ValueError):
    """A range begins after the end of the file."""


class XetFiles:
    """The Xet files of one repo.

    Args:
        objects: The repo's contents.
        xorbs: The server's xorbs.
    """

    def __init__(self, objects: ObjectStore, xorbs: XorbStore) -> None:
        self._objects = objects
        self._xorbs = xorbs

    def take_in(self, shard: Shard) -> int:
        """Make every file that a shard describes a content of the repo. All is checked first.

        Returns:
            How many of them were not there before.

        Raises:
            ShardError: It describes a file that cannot be, or that is not what it says. Files before that one
                may have been taken in: whole, and named by no commit.
            XetFormatError: A xorb on the disk is damaged.
            NoSpaceError: The disk is too small.
        """
        _check_size(shard)
        self._check_xorbs(shard)
        needed = sum(self._check(file) for file in shard.files())
        if needed and shutil.disk_usage(self._objects.folder).free < needed + _SPARE_BYTES:
            raise NoSpaceError(f"the disk has no room for {needed:,} bytes")
        return sum(self._keep(file) for file in shard.files())

    def _check_xorbs(self, shard: Shard) -> None:
        for described in shard.xorbs():
            index = self._xorbs.index(described.xorb)
            if index is None:
                raise ShardError(f"the shard describes xorb {to_text(described.xorb)}, which was not uploaded")
            if index.digests(0, len(index)) != b"".join(described.chunk_hashes()):
                raise ShardError(f"xorb {to_text(described.xorb)} has other chunks than the shard says")

    def _check(self, file: ShardFile) -> int:
        """Check all that can be told without unpacking; returns the bytes that the file will need, 0 if known."""
        name = to_text(file.file_hash)
        if file.sha256 is None:
            raise ShardError(f"the shard does not state the SHA-256 of file {name}")
        size = 0
        for term, proof in self._proven(file):
            index = self._index(term)
            size += term.size
            if index.size(term.start, term.end) != term.size:
                raise ShardError(f"a term of file {name} does not have the size that the shard says")
            if hash_range(index.digests(term.start, term.end)) != proof:
                raise ShardError(f"a term of file {name} is not proven: its verification hash is wrong")
        if hash_file(self._leaves(file)) != file.file_hash:
            raise ShardError(f"the chunks of file {name} have another hash")
        return 0 if self._is_known(file) else size

    def _proven(self, file: ShardFile) -> Iterator[tuple[Term, bytes]]:
        """Each term with its proof."""
        terms, proofs = file.terms(), file.proofs()
        for term in terms:
            proof = next(proofs, None)
            if proof is None:
                raise ShardError(f"the terms of file {to_text(file.file_hash)} have no verification hashes")
            yield term, proof

    def _index(self, term: Term) -> XorbIndex:
        index = self._xorbs.index(term.xorb)
        if index is None:
            raise ShardError(f"xorb {to_text(term.xorb)} is not there; upload it again")
        if not term.start < term.end <= len(index):
            raise ShardError(f"xorb {to_text(term.xorb)} has no chunks {term.start} to {term.end}")
        return index

    def _leaves(self, file: ShardFile) -> Iterator[Leaf]:
        for term in file.terms():
            yield from self._index(term).leaves(term.start, term.end)

    def _is_known(self, file: ShardFile) -> bool:
        """Whether this very file, with this very SHA-256, has been verified before."""
        sha256 = file.sha256 or ""
        known = self._objects.has(sha256) and self._objects.xet_hash(sha256) == to_text(file.file_hash)
        return known and self._path(file.file_hash).is_file()

    def _keep(self, file: ShardFile) -> int:
        for xorb in {term.xorb for term in file.terms()}:
            self._xorbs.mark_used(xorb)
        if self._is_known(file):
            return 0
        sha256 = file.sha256 or ""
        with self._objects.writer() as writer:
            for term in file.terms():
                for data in self._xorbs.content(term.xorb, term.start, term.end):
                    writer.write(data)
            try:
                writer.keep(sha256)
            except WrongContentError as error:
                raise ShardError(f"file {to_text(file.file_hash)}: {error}") from error
        terms = b"".join(_TERM.pack(term.xorb, term.start, term.end, term.size) for term in file.terms())
        path = self._path(file.file_hash)
        make_inside(self._objects.folder, path.parent)
        atomic.write_bytes(path, bytes.fromhex(sha256) + terms)
        # Last, because it is what makes resolve send clients here.
        self._objects.note_xet_hash(sha256, to_text(file.file_hash))
        return 1

    def plan(self, file_hash: bytes, start: int = 0, end: int | None = None) -> Plan | None:
        """How to download the bytes ``[start, end)`` of a file (to its end for None); None for an unknown file.

        Raises:
            RangeError: The file ends before ``start``.
            XetFormatError: A xorb that it needs has gone.
        """
        path = self._path(file_hash)
        if not path.is_file():
            return None
        pieces: list[Piece] = []
        skip = at = 0
        for xorb, first, last, size in _TERM.iter_unpack(path.read_bytes()[HASH_BYTES:]):
            before, at = at, at + size
            if at <= start:
                continue
            if end is not None and before >= end:
                break
            piece, cut = self._cut(
                Piece(xorb, first, last, size), start - before, None if end is None else end - before
            )
            if not pieces:
                skip = max(0, start - before - cut)
            pieces.append(piece)
        if start and not pieces:
            raise RangeError(f"the file has {at} bytes; there is no byte {start}")
        return Plan(skip, pieces)

    def _cut(self, piece: Piece, start: int, end: int | None) -> tuple[Piece, int]:
        """A piece without the chunks outside the bytes ``[start, end)`` of its content, and the bytes cut before."""
        index = self._xorbs.index(piece.xorb)
        if index is None:
            raise XetFormatError(f"xorb {to_text(piece.xorb)} has gone")
        first, last, cut = piece.start, piece.end, 0
        if start > 0:
            first, cut = index.chunk_at(piece.start, piece.end, start)
        if end is not None and end < piece.size:
            last = index.chunk_at(piece.start, piece.end, end - 1)[0] + 1
        return Piece(piece.xorb, first, last, index.size(first, last)), cut

    def tidy(self) -> set[bytes]:
        """Forget the Xet hashes of files whose xorbs have gone; without Xet, the files are there as before.

        Returns:
            The xorbs that the other files are made of.
        """
        named = set()
        for path in self._objects.folder.glob("xet/??/*"):
            name = path.parent.name + path.name
            if not SHA256.fullmatch(name):
                continue  # half-written, or not ours
            data = path.read_bytes()
            is_whole = len(data) >= HASH_BYTES and (len(data) - HASH_BYTES) % _TERM.size == 0
            xorbs = {xorb for xorb, _, _, _ in _TERM.iter_unpack(data[HASH_BYTES:])} if is_whole else set()
            if is_whole and all(self._xorbs.has(xorb) for xorb in xorbs):
                named |= xorbs
                continue
            if is_whole:
                self._objects.forget_xet_hash(data[:HASH_BYTES].hex())
            else:
                self._objects.forget_xet_notes_of(name)
            path.unlink()
        return named

    def _path(self, file_hash: bytes) -> Path:
        text = to_text(file_hash)
        return self._objects.folder / "xet" / text[:2] / text[2:]


def _check_size(shard: Shard) -> None:
    """Refuse a shard that would keep this machine busy for hours; a short one can say so."""
    size = chunks = 0
    for file in shard.files():
        for term in file.terms():
            size += term.size
            chunks += max(0, term.end - term.start)
    if size > MOST_BYTES or chunks > MOST_CHUNKS:
        raise ShardError(f"the shard describes too much: {size:,} bytes in {chunks:,} chunks")
