"""The hashes of the Xet protocol: of a chunk, of a xorb, of a file, and the proof that a shard gives.

A file is cut into chunks of 8 to 128 KiB. Each has a hash (BLAKE3 under a key of the protocol). The chunks of
a xorb, or of a file, are the leaves of one Merkle tree, whose shape follows from the hashes themselves: a node
takes children until the third or a later one is divisible by four, and nine at most.

Source: the Xet protocol specification, "Hashing" (https://huggingface.co/docs/xet/hashing).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

HASH_BYTES = 32

# Keys that the specification fixes, so that a hash of one kind never equals one of another kind.
_CHUNK_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
_RANGE_KEY = bytes.fromhex("7f1857d6ce56ed66127ff913e7a5c3f3a4cd26d5b5db49e64124987f28fb94c3")
_FILE_KEY = bytes(HASH_BYTES)

_FEWEST_CHILDREN = 3
_MOST_CHILDREN = 9
_MEAN_CHILDREN = 4

Leaf = tuple[bytes, int]
"""A hash and the number of bytes of content that it stands for."""


def to_text(digest: bytes) -> str:
    """The 64 hexadecimal digits of a hash: four little-endian 64-bit numbers, so not ``digest.hex()``."""
    return "".join(digest[start : start + 8][::-1].hex() for start in range(0, HASH_BYTES, 8))


def from_text(text: str) -> bytes:
    """The inverse of ``to_text``.

    Raises:
        ValueError: ``text`` is not 64 lower-case hexadecimal digits.
    """
    if len(text) != 2 * HASH_BYTES or not set(text) <= set("0123456789abcdef"):
        raise ValueError("a hash is written as 64 lower-case hexadecimal digits")
    digest = bytes.fromhex(text)
    return b"".join(digest[start : start + 8][::-1] for start in range(0, HASH_BYTES, 8))


def hash_chunk(data: bytes | bytearray | memoryview) -> bytes:
    """The hash of the uncompressed bytes of one chunk."""
    return _keyed(_CHUNK_KEY, data)


def hash_xorb(chunks: Iterable[Leaf]) -> bytes:
    """The hash of a xorb from its chunks' hashes and lengths, in order; 32 zero bytes for no chunk.

    A quarter of the leaves is held at a time, so that a file of 50 GB needs tens of megabytes here.
    """
    leaves = iter(chunks)
    level = list(islice(leaves, 2))
    if not level:
        return bytes(HASH_BYTES)
    if len(level) == 2:
        level = list(_parents(chain(level, leaves)))
    while len(level) > 1:
        level = list(_parents(level))
    return level[0][0]


def hash_file(chunks: Iterable[Leaf]) -> bytes:
    """The hash of a file from its chunks' hashes and lengths, in order; 32 zero bytes for an empty file."""
    root = hash_xorb(chunks)
    return root if root == bytes(HASH_BYTES) else _keyed(_FILE_KEY, root)


def hash_range(digests: bytes | memoryview) -> bytes:
    """What a shard must state for each of its terms: the hash of the term's chunk hashes, one after another.

    Only somebody who has seen the chunks can state it, which is why a shard may name xorbs of other repos.
    """
    return _keyed(_RANGE_KEY, digests)


def _parents(level: Iterable[Leaf]) -> Iterator[Leaf]:
    children: list[Leaf] = []
    for child in level:
        children.append(child)
        ends_node = int.from_bytes(child[0][24:], "little") % _MEAN_CHILDREN == 0
        if len(children) == _MOST_CHILDREN or (ends_node and len(children) >= _FEWEST_CHILDREN):
            yield _parent(children)
            children = []
    if children:
        yield _parent(children)


def _parent(children: list[Leaf]) -> Leaf:
    text = "".join(f"{to_text(digest)} : {size}\n" for digest, size in children)
    return _keyed(_NODE_KEY, text.encode("ascii")), sum(size for _, size in children)


def _keyed(key: bytes, data: bytes | bytearray | memoryview) -> bytes:
    from blake3 import blake3

    return blake3(data, key=key).digest()
