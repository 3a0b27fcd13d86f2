"""Xorbs and shards made by hand, for tests that need wrong ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import lz4.frame

from hfplug.hub.server.xet_hashes import hash_chunk, hash_file, hash_range, hash_xorb

MAGIC = b"HFRepoMetaData\x00\x55\x69\x67\x45\x6a\x7b\x81\x57\x83\xa5\xbd\xd9\x5c\xcd\xd1\x4a\xa9"
END = b"\xff" * 32 + bytes(16)


def pack_chunk(data: bytes, scheme: int = 0, *, size: int | None = None) -> bytes:
    """One chunk; ``size`` is what its header says instead of the truth."""
    grouped = b"".join(data[position::4] for position in range(4))
    packed = {0: data, 1: lz4.frame.compress(data), 2: lz4.frame.compress(grouped)}.get(scheme, data)
    size = len(data) if size is None else size
    return b"\0" + len(packed).to_bytes(3, "little") + bytes([scheme]) + size.to_bytes(3, "little") + packed


@dataclass
class Xorb:
    """A xorb of these chunks of content."""

    chunks: Sequence[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(pack_chunk(chunk, scheme=number % 3) for number, chunk in enumerate(self.chunks))

    @property
    def digests(self) -> list[bytes]:
        return [hash_chunk(chunk) for chunk in self.chunks]

    @property
    def hash(self) -> bytes:
        return hash_xorb(zip(self.digests, map(len, self.chunks), strict=True))


@dataclass
class File:
    """A file of runs of chunks ``(xorb, start, end)``; the rest is what is said instead of the truth."""

    terms: Sequence[tuple[Xorb, int, int]]
    sha256: bytes | None
    file_hash: bytes | None = None
    proofs: Sequence[bytes] | None = field(default=None)
    sizes: Sequence[int] | None = None

    @property
    def hash(self) -> bytes:
        if self.file_hash is not None:
            return self.file_hash
        return hash_file(
            (hash_chunk(chunk), len(chunk)) for xorb, start, end in self.terms for chunk in xorb.chunks[start:end]
        )

    def entries(self) -> bytes:
        sizes = self.sizes or [sum(map(len, xorb.chunks[start:end])) for xorb, start, end in self.terms]
        proofs = self.proofs
        if proofs is None:
            proofs = [hash_range(b"".join(xorb.digests[start:end])) for xorb, start, end in self.terms]
        flags = (1 << 31 if proofs else 0) | (1 << 30 if self.sha256 else 0)
        body = self.hash + struct.pack("<IIQ", flags, len(self.terms), 0)
        for (xorb, start, end), size in zip(self.terms, sizes, strict=True):
            body += xorb.hash + struct.pack("<IIII", 0, size, start, end)
        body += b"".join(proof + bytes(16) for proof in proofs)
        if self.sha256:
            # As a hash of the protocol: four numbers, each with its bytes turned round.
            body += b"".join(self.sha256[at : at + 8][::-1] for at in range(0, 32, 8)) + bytes(16)
        return body


def make_shard(files: Sequence[File], xorbs: Sequence[Xorb] = ()) -> bytes:
    """A shard as the client sends it: without a footer."""
    body = MAGIC + struct.pack("<QQ", 2, 0) + b"".join(file.entries() for file in files) + END
    for xorb in xorbs:
        body += xorb.hash + struct.pack("<IIII", 0, len(xorb.chunks), sum(map(len, xorb.chunks)), len(xorb.body))
        start = 0
        for digest, chunk in zip(xorb.digests, xorb.chunks, strict=True):
            body += digest + struct.pack("<IIII", start, len(chunk), 0, 0)
            start += len(chunk)
    return body + END
