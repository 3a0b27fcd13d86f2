"""The two binary formats of the Xet protocol, read from bytes that nobody vouches for: xorbs and shards.

A **xorb** is up to 64 MiB of chunks, each behind a header of eight bytes, and then perhaps a footer:

    version (1, zero) | packed size (3) | compression (1) | size (3) | the packed bytes     for each chunk
    "XETBLOB" …  | length of the footer (4)                                                 not read, see below

All that a footer says follows from the chunks, so it is neither read nor kept.

A **shard** says which chunk ranges of which xorbs make up which files. It consists of entries of 48 bytes:

    magic (32) | version (8) | length of the footer (8)
    for each file:  file hash (32) | flags (4) | number of terms (4) | 0 (8)
                    for each term:  xorb hash (32) | 0 (4) | bytes (4) | first chunk (4) | end (4)
                    for each term:  hash of the term's chunk hashes (32) | 0 (16)           if the flags say so
                    SHA-256 of the file (32) | 0 (16)                                       if the flags say so
    ff… (32) | 0 (16)
    for each xorb:  xorb hash (32) | 0 (4) | number of chunks (4) | bytes (4) | packed bytes (4)
                    for each chunk: chunk hash (32) | start (4) | bytes (4) | flags (4) | 0 (4)
    ff… (32) | 0 (16)

Numbers are little-endian. Entries are read as they are asked for: a shard costs the memory of its own bytes.

Source: the Xet protocol specification, "Xorb" and "Shard" (https://huggingface.co/docs/xet).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from hfplug.hub.server.xet_hashes import HASH_BYTES, to_text

LARGEST_CHUNK = 128 * 1024  # bytes of content (the specification's limit)
MOST_CHUNKS = 64 * 1024  # of one xorb; the reference client cuts at 8,192
# Bytes as sent. The specification says 64 MiB; the reference client fills that with content, and then come the
# chunks' headers, the little by which LZ4 can lengthen them, and a footer of some 50 bytes a chunk.
LARGEST_XORB = 68 * 1024 * 1024
MOST_CONTENT = 1024 * 1024 * 1024  # bytes of a xorb's content; the reference client cuts at 64 MiB
LARGEST_SHARD = 68 * 1024 * 1024  # bytes; the reference client aims at 64 MiB

CHUNK_HEADER = 8
_FOOTER_START = b"XETBLOB"
# LZ4 makes what it cannot compress a little longer: a frame header, a block header for each 64 KiB, an end mark.
_LARGEST_PACKED = LARGEST_CHUNK + 1024
_PLAIN, _LZ4, _GROUPED_LZ4 = range(3)

_ENTRY = 48
_SHARD_MAGIC = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
_SHARD_VERSION = 2
_SHARD_FOOTER = 200
_BOOKEND = b"\xff" * HASH_BYTES
_WITH_PROOFS = 1 << 31
_WITH_SHA256 = 1 << 30
_TERM = struct.Struct("<32sIIII")
_COUNTS = struct.Struct("<II")


class XetFormatError(ValueError):
    """The bytes are not a xorb or not a shard; the message says where they stop being one."""


@dataclass(frozen=True)
class Chunk:
    """One chunk of a xorb.

    Args:
        data: Its content, uncompressed.
        end: Where it ends in the xorb, in bytes from the start.
    """

    data: bytes
    end: int


@dataclass(frozen=True)
class Term:
    """A run of chunks of one xorb: ``[start, end)``, which holds ``size`` bytes of content."""

    xorb: bytes
    size: int
    start: int
    end: int


@dataclass(frozen=True)
class ShardFile:
    """How one file is put together.

    Args:
        file_hash: The Xet hash of the file.
        sha256: Its SHA-256 in lower-case hexadecimal digits, or None if the shard does not state it.
    """

    file_hash: bytes
    sha256: str | None
    _terms: memoryview
    _proofs: memoryview | None

    def terms(self) -> Iterator[Term]:
        """The runs of chunks that make up the file, in order."""
        for xorb, _, size, start, end in _TERM.iter_unpack(self._terms):
            yield Term(xorb, size, start, end)

    def proofs(self) -> Iterator[bytes]:
        """For each term the hash of its chunks' hashes; nothing at all if the shard states none."""
        proofs = self._proofs if self._proofs is not None else memoryview(b"")
        for at in range(0, len(proofs), _ENTRY):
            yield bytes(proofs[at : at + HASH_BYTES])


@dataclass(frozen=True)
class ShardXorb:
    """What a shard says of a xorb that was uploaded with it."""

    xorb: bytes
    _chunks: memoryview

    def chunk_hashes(self) -> Iterator[bytes]:
        """The hashes of its chunks, in order."""
        for at in range(0, len(self._chunks), _ENTRY):
            yield bytes(self._chunks[at : at + HASH_BYTES])


def read_chunks(file: BinaryIO, end: int | None = None) -> Iterator[Chunk]:
    """The chunks of a xorb, each uncompressed when it is asked for.

    Args:
        file: The xorb, at its start or at the start of one of its chunks.
        end: Where to stop, in bytes from where ``file`` stands; None for the end of the file or a footer.

    Raises:
        XetFormatError: A chunk is cut short, too long, of an unknown kind, or does not unpack to its size.
    """
    at = 0
    while end is None or at < end:
        header = file.read(CHUNK_HEADER)
        if not header or (end is None and header.startswith(_FOOTER_START)):
            if end is not None:
                raise XetFormatError(f"the xorb ends at byte {at}, before byte {end}")
            return
        if len(header) < CHUNK_HEADER:
            raise XetFormatError(f"the xorb ends within a chunk's header, at byte {at}")
        if header[0] != 0:
            raise XetFormatError(f"at byte {at} of the xorb: version {header[0]} of the chunk header is not known")
        packed_size = int.from_bytes(header[1:4], "little")
        size = int.from_bytes(header[5:8], "little")
        if packed_size > _LARGEST_PACKED or size > LARGEST_CHUNK or not size:
            raise XetFormatError(f"at byte {at} of the xorb: a chunk of {size} bytes, packed into {packed_size}")
        packed = file.read(packed_size)
        if len(packed) < packed_size:
            raise XetFormatError(f"the xorb ends within a chunk, {packed_size - len(packed)} bytes early")
        data = _unpack(packed, header[4], size, at)
        at += CHUNK_HEADER + packed_size
        yield Chunk(data, at)


def _unpack(packed: bytes, scheme: int, size: int, at: int) -> bytes:
    if scheme == _PLAIN:
        data = packed
    elif scheme == _LZ4:
        data = _unpack_lz4(packed, size, at)
    elif scheme == _GROUPED_LZ4:
        data = _ungroup(_unpack_lz4(packed, size, at))
    else:
        raise XetFormatError(f"at byte {at} of the xorb: compression {scheme} is not known")
    if len(data) != size:
        raise XetFormatError(f"at byte {at} of the xorb: a chunk does not unpack to the {size} bytes it states")
    return data


def _unpack_lz4(packed: bytes, size: int, at: int) -> bytes:
    """One LZ4 frame; it is stopped at one byte too many, however much it would unpack to."""
    from lz4.frame import LZ4FrameDecompressor

    decompressor = LZ4FrameDecompressor()
    try:
        data = decompressor.decompress(packed, max_length=size + 1)
    except (RuntimeError, ValueError, EOFError, MemoryError) as error:
        raise XetFormatError(f"at byte {at} of the xorb: a chunk is not an LZ4 frame") from error
    if not decompressor.eof or decompressor.unused_data:
        raise XetFormatError(f"at byte {at} of the xorb: a chunk is not one LZ4 frame of {size} bytes")
    return data


def _ungroup(grouped: bytes) -> bytes:
    """Put back in place bytes that were grouped by their position in each four, for better compression."""
    data = bytearray(len(grouped))
    start = 0
    for position in range(4):
        length = (len(grouped) - position + 3) // 4
        data[position::4] = grouped[start : start + length]
        start += length
    return bytes(data)


class Shard:
    """A shard, checked for its structure when it is made: every entry it announces is there.

    Args:
        data: The bytes.

    Raises:
        XetFormatError: They are not a shard.
    """

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        if len(data) < _ENTRY or data[:HASH_BYTES] != _SHARD_MAGIC:
            raise XetFormatError("these bytes do not begin as a shard does")
        version, footer = struct.unpack_from("<QQ", data, HASH_BYTES)
        if version != _SHARD_VERSION:
            raise XetFormatError(f"a shard of version {version}; only version {_SHARD_VERSION} is known")
        if footer not in (0, _SHARD_FOOTER):
            raise XetFormatError(f"a shard's footer has {_SHARD_FOOTER} bytes; this one says {footer}")
        self._xorbs_at = self._walk_files()
        end = self._walk_xorbs()
        # A footer, and tables to search in, may follow; all that they say is already known.
        if not footer and end != len(data):
            raise XetFormatError(f"{len(data) - end} bytes follow the end of the shard")

    def files(self) -> Iterator[ShardFile]:
        """The files that the shard describes."""
        at = _ENTRY
        while self._hash(at) != _BOOKEND:
            file, at = self._file(at)
            yield file

    def xorbs(self) -> Iterator[ShardXorb]:
        """The xorbs that the shard describes: as a rule those uploaded just before it."""
        at = self._xorbs_at
        while self._hash(at) != _BOOKEND:
            count, _ = _COUNTS.unpack_from(self._data, at + 36)
            end = at + _ENTRY * (1 + count)
            yield ShardXorb(self._hash(at), self._data[at + _ENTRY : end])
            at = end

    def _walk_files(self) -> int:
        at = _ENTRY
        while self._hash(at) != _BOOKEND:
            _, at = self._file(at)
        return at + _ENTRY

    def _walk_xorbs(self) -> int:
        at = self._xorbs_at
        while self._hash(at) != _BOOKEND:
            count, _ = _COUNTS.unpack_from(self._data, at + 36)
            at += _ENTRY * (1 + count)
        return at + _ENTRY

    def _file(self, at: int) -> tuple[ShardFile, int]:
        """The file whose header is at ``at``, and where the next header is."""
        flags, count = _COUNTS.unpack_from(self._data, at + HASH_BYTES)
        terms = at + _ENTRY
        proofs = terms + _ENTRY * count
        sha256 = proofs + (_ENTRY * count if flags & _WITH_PROOFS else 0)
        end = sha256 + (_ENTRY if flags & _WITH_SHA256 else 0)
        if end > len(self._data):
            raise XetFormatError(f"at byte {at} of the shard: a file of {count} terms does not fit into it")
        file = ShardFile(
            file_hash=self._hash(at),
            sha256=to_text(self._hash(sha256)) if flags & _WITH_SHA256 else None,
            _terms=self._data[terms:proofs],
            _proofs=self._data[proofs:sha256] if flags & _WITH_PROOFS else None,
        )
        return file, end

    def _hash(self, at: int) -> bytes:
        """The hash that begins the entry at ``at``.

        Raises:
            XetFormatError: There is no whole entry there.
        """
        if at + _ENTRY > len(self._data):
            raise XetFormatError(f"the shard ends at byte {len(self._data)}, before its end mark")
        return bytes(self._data[at : at + HASH_BYTES])
