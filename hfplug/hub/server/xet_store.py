"""Where the loopback Hub keeps xorbs: each one whole and verified, or not at all.

    xorbs/ab/cdef…  the chunks as they came, without the footer | an entry for each chunk | the number of chunks (4)
                    where an entry is the chunk's hash (32), where it ends (4), its bytes of content (4)
    incoming/               being written; emptied when the store is opened by a server

A xorb belongs to no repo. The client remembers for weeks which chunks it has sent to which server and does not
send them again, to whichever repo they go; so a xorb stays when the repo that it came for is deleted, until
nothing has named it for longer than the client remembers (``sweep``).
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hfplug.adapters import atomic
from hfplug.hub.server.root import make_private
from hfplug.hub.server.store import make_folder
from hfplug.hub.server.xet_formats import MOST_CHUNKS, MOST_CONTENT, XetFormatError, read_chunks
from hfplug.hub.server.xet_hashes import Leaf, from_text, hash_chunk, hash_xorb, to_text

# The reference client forgets what it has sent after three weeks.
KEEP_SECONDS = 30 * 24 * 3600

_CHUNK = struct.Struct("<32sII")
_COUNT = struct.Struct("<I")


@dataclass(frozen=True)
class XorbIndex:
    """Which chunks a xorb holds, and where."""

    entries: bytes

    def __len__(self) -> int:
        return len(self.entries) // _CHUNK.size

    def leaves(self, start: int, end: int) -> Iterator[Leaf]:
        """Hash and bytes of content of the chunks ``[start, end)``."""
        for digest, _, size in _CHUNK.iter_unpack(memoryview(self.entries)[start * _CHUNK.size : end * _CHUNK.size]):
            yield digest, size

    def digests(self, start: int, end: int) -> bytes:
        """The hashes of the chunks ``[start, end)``, one after another."""
        return b"".join(digest for digest, _ in self.leaves(start, end))

    def size(self, start: int, end: int) -> int:
        """Bytes of content of the chunks ``[start, end)``."""
        return sum(size for _, size in self.leaves(start, end))

    def chunk_at(self, start: int, end: int, offset: int) -> tuple[int, int]:
        """Which of the chunks ``[start, end)`` holds the byte ``offset`` of their content.

        Returns:
            The chunk's number, and the bytes of content from chunk ``start`` to it.
        """
        before = 0
        for chunk, (_, size) in enumerate(self.leaves(start, end), start):
            if offset < before + size:
                return chunk, before
            before += size
        raise ValueError(f"the chunks {start} to {end} hold {before} bytes; there is no byte {offset}")

    def place(self, chunk: int) -> int:
        """Where chunk ``chunk`` starts in the xorb; for the number of chunks, where the last one ends."""
        return int(_CHUNK.unpack_from(self.entries, (chunk - 1) * _CHUNK.size)[1]) if chunk else 0


class XorbStore:
    """The xorbs of one server.

    Args:
        folder: Where they are; need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        # A shard asks for the same few again and again. A file is replaced, never changed, so its inode tells it.
        self._indexes = functools.lru_cache(maxsize=16)(self._read_index)

    def name(self) -> str:
        """A name that no other store has, nor this one after it has been emptied.

        The client remembers what it has sent by the address that it sent it to. Without such a name in it, a
        server that was emptied would be told to use xorbs that it no longer has, for weeks.
        """
        path = self.folder / "name"
        with self._lock:
            if not path.is_file():
                make_private(self.folder)
                atomic.write_text(path, secrets.token_hex(8))
            return path.read_text(encoding="ascii")

    def path(self, xorb: bytes) -> Path:
        """Where the chunks of a xorb lie or would lie."""
        text = to_text(xorb)
        return self.folder / "xorbs" / text[:2] / text[2:]

    def has(self, xorb: bytes) -> bool:
        """Whether the whole xorb is there."""
        return self.index(xorb) is not None

    def index(self, xorb: bytes) -> XorbIndex | None:
        """The chunks of a xorb; None if it is not there, or was cut short since."""
        path = self.path(xorb)
        try:
            found = path.stat()
            return self._indexes(path, found.st_ino, found.st_size)
        except FileNotFoundError:
            return None

    def _read_index(self, path: Path, inode: int, size: int) -> XorbIndex | None:
        with open(path, "rb") as file:
            file.seek(max(0, size - _COUNT.size))
            tail = file.read(_COUNT.size)
            start = size - _COUNT.size - _CHUNK.size * _COUNT.unpack(tail)[0] if len(tail) == _COUNT.size else 0
            if start <= 0:
                return None
            file.seek(start)
            index = XorbIndex(file.read(size - _COUNT.size - start))
        return index if len(index) and index.place(len(index)) == start else None

    def mark_used(self, xorb: bytes) -> None:
        """Note that somebody has just named a xorb, so that ``sweep`` lets it live."""
        os.utime(self.path(xorb))

    def draft(self) -> Path:
        """A path for a xorb that is being received. ``add`` takes the file away; whoever gives up deletes it."""
        make_private(self.folder)
        make_folder(self.folder / "incoming")
        return self.folder / "incoming" / secrets.token_hex(16)

    def add(self, draft: Path, xorb: bytes) -> str:
        """Verify a received xorb and keep it; it is on the disk when this returns. The draft is gone then, too.

        Args:
            draft: The bytes, as they came.
            xorb: The hash that it must have.

        Returns:
            "added", or "there already".

        Raises:
            XetFormatError: It is no xorb, or another one.
        """
        try:
            if self.has(xorb):
                self.mark_used(xorb)
                return "there already"
            entries, size = self._verify(draft, xorb)
            with open(draft, "rb+") as file:
                file.truncate(size)
                file.seek(size)
                file.write(entries + _COUNT.pack(len(entries) // _CHUNK.size))
                file.flush()
                os.fsync(file.fileno())
            target = self.path(xorb)
            make_private(self.folder)
            make_folder(target.parent)
            # The same chunks can be packed otherwise. The first one stays, since there may be links into it.
            with self._lock:
                if self.has(xorb):
                    return "there already"
                os.replace(draft, target)
            atomic.sync_folder(target.parent)
            return "added"
        finally:
            draft.unlink(missing_ok=True)

    def _verify(self, draft: Path, xorb: bytes) -> tuple[bytes, int]:
        """The index of a xorb whose every chunk has been unpacked and hashed, and the bytes that its chunks take."""
        entries = bytearray()
        leaves: list[Leaf] = []
        content = end = 0
        with open(draft, "rb") as file:
            for chunk in read_chunks(file):
                if len(leaves) == MOST_CHUNKS:
                    raise XetFormatError(f"the xorb has more than {MOST_CHUNKS} chunks")
                leaves.append((hash_chunk(chunk.data), len(chunk.data)))
                end, content = chunk.end, content + len(chunk.data)
                if content > MOST_CONTENT:
                    raise XetFormatError(f"the xorb has more than {MOST_CONTENT} bytes of content")
                entries += _CHUNK.pack(leaves[-1][0], end, len(chunk.data))
        if not leaves:
            raise XetFormatError("the xorb holds no chunk")
        found = hash_xorb(leaves)
        if found != xorb:
            raise XetFormatError(f"the xorb that came has hash {to_text(found)}, not {to_text(xorb)}")
        return bytes(entries), end

    def content(self, xorb: bytes, start: int, end: int) -> Iterator[bytes]:
        """The bytes of the chunks ``[start, end)`` of a xorb that is there, chunk by chunk.

        Raises:
            XetFormatError: The file has been damaged since it was verified.
        """
        index = self.index(xorb)
        if index is None or not 0 <= start <= end <= len(index):
            raise XetFormatError(f"the chunks {start} to {end} of xorb {to_text(xorb)} are not there")
        first = index.place(start)
        with open(self.path(xorb), "rb") as file:
            file.seek(first)
            for chunk in read_chunks(file, index.place(end) - first):
                yield chunk.data

    def sweep(self, named: set[bytes], *, older_than: float = KEEP_SECONDS) -> int:
        """Delete what a killed process left half-written, and xorbs that nothing names. Only while nobody writes.

        Args:
            named: The xorbs that files of the Hub are made of.
            older_than: Seconds that a xorb must have gone unnamed.

        Returns:
            How many xorbs were deleted.
        """
        shutil.rmtree(self.folder / "incoming", ignore_errors=True)
        deleted = 0
        for path in self.folder.glob("xorbs/??/*"):
            try:
                xorb = from_text(path.parent.name + path.name)
            except ValueError:
                continue  # not ours: a desktop leaves its own files everywhere
            if xorb not in named and time.time() - path.stat().st_mtime > older_than:
                path.unlink()
                deleted += 1
        return deleted
