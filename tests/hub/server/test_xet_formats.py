"""Xorbs and shards are read from hostile bytes with an error of their own, and without much memory."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import struct
import tracemalloc
from pathlib import Path

import hf_xet
import lz4.frame
import pytest
from xet_bytes import END, MAGIC, File, Xorb, make_shard, pack_chunk

from hfplug.hub.server.xet_formats import LARGEST_CHUNK, Shard, XetFormatError, read_chunks
from hfplug.hub.server.xet_hashes import from_text, hash_chunk, hash_file, hash_xorb, to_text

CONTENTS = [b"a", b"ab", b"abc", b"abcd", b"abcde", bytes(1000), os.urandom(5000), b"1234567" * 9000]


def small_shard() -> bytes:
    one, two = Xorb(CONTENTS[:5]), Xorb(CONTENTS[5:])
    files = [
        File([(one, 0, 5), (two, 1, 3)], hashlib.sha256(b"".join(CONTENTS[:5] + CONTENTS[6:])).digest()),
        File([(two, 0, 1)], hashlib.sha256(CONTENTS[5]).digest()),
    ]
    return make_shard(files, [one, two])


def read_all(shard: Shard) -> None:
    for file in shard.files():
        list(file.terms()), list(file.proofs())
    for xorb in shard.xorbs():
        list(xorb.chunk_hashes())


@pytest.mark.parametrize("scheme", [0, 1, 2])
def test_chunks_are_unpacked_whatever_their_compression(scheme):
    body = b"".join(pack_chunk(content, scheme) for content in CONTENTS)
    chunks = list(read_chunks(io.BytesIO(body)))
    assert [chunk.data for chunk in chunks] == CONTENTS
    assert chunks[-1].end == len(body)


def test_a_footer_ends_the_chunks_and_is_not_read():
    body = pack_chunk(b"content") + b"XETBLOB\x01" + os.urandom(100)
    assert [chunk.data for chunk in read_chunks(io.BytesIO(body))] == [b"content"]


@pytest.mark.parametrize(
    "body, words",
    [
        (pack_chunk(b"content", 3), "compression 3 is not known"),
        (b"\x01" + pack_chunk(b"content")[1:], "version 1"),
        (pack_chunk(b"content", 0, size=6), "does not unpack to the 6 bytes"),
        (pack_chunk(b"content" * 99, 1, size=600), "not one LZ4 frame of 600 bytes"),
        (pack_chunk(b"content" * 99, 2, size=700), "does not unpack to the 700 bytes"),
        (pack_chunk(b"", 0), "a chunk of 0 bytes"),
        (pack_chunk(bytes(LARGEST_CHUNK + 1), 1), f"a chunk of {LARGEST_CHUNK + 1} bytes"),
        (b"\0\xff\xff\xff\x01\x05\0\0" + bytes(99), "packed into 16777215"),
        (b"\0\x20\0\0\x01\x05\0\0" + b"h" * 32, "not an LZ4 frame"),
        (pack_chunk(b"content")[:5], "within a chunk's header"),
        (pack_chunk(b"content")[:-1], "1 bytes early"),
    ],
)
def test_what_is_wrong_with_a_chunk_is_said(body, words):
    with pytest.raises(XetFormatError, match=words):
        list(read_chunks(io.BytesIO(body)))


def test_a_chunk_that_would_unpack_to_a_gigabyte_costs_no_more_than_a_chunk():
    packed = lz4.frame.compress(bytes(30_000_000))
    assert len(packed) < LARGEST_CHUNK
    body = b"\0" + len(packed).to_bytes(3, "little") + b"\x01" + LARGEST_CHUNK.to_bytes(3, "little") + packed
    tracemalloc.start()
    with pytest.raises(XetFormatError, match="not one LZ4 frame"):
        list(read_chunks(io.BytesIO(body)))
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_broken_xorbs_raise_nothing_but_the_error_of_the_format():
    rng = random.Random(0)
    body = Xorb(CONTENTS[:7]).body
    for length in range(len(body)):
        with contextlib.suppress(XetFormatError):
            assert [chunk.data for chunk in read_chunks(io.BytesIO(body[:length]))] != CONTENTS[:7]
    for _ in range(3000):
        damaged = bytearray(body)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(body))] = rng.randrange(256)
        with contextlib.suppress(XetFormatError):
            list(read_chunks(io.BytesIO(damaged)))
        with contextlib.suppress(XetFormatError):
            list(read_chunks(io.BytesIO(rng.randbytes(rng.randint(0, 200)))))


def test_a_shard_gives_back_what_was_put_into_it():
    one, two = Xorb(CONTENTS[:5]), Xorb(CONTENTS[5:])
    sha256 = hashlib.sha256(b"x").digest()
    shard = Shard(make_shard([File([(one, 0, 5), (two, 1, 3)], sha256), File([], None)], [one, two]))
    first, empty = shard.files()
    assert first.sha256 == sha256.hex()
    assert [(term.xorb, term.start, term.end) for term in first.terms()] == [(one.hash, 0, 5), (two.hash, 1, 3)]
    assert len(list(first.proofs())) == 2
    assert empty.sha256 is None and list(empty.terms()) == list(empty.proofs()) == []
    assert [list(xorb.chunk_hashes()) for xorb in shard.xorbs()] == [one.digests, two.digests]


def test_a_footer_of_a_shard_is_passed_over():
    body = small_shard()
    with_footer = body[:40] + struct.pack("<Q", 200) + body[48:] + os.urandom(300)
    assert len(list(Shard(with_footer).files())) == 2


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "do not begin"),
        (b"x" + small_shard()[1:], "do not begin"),
        (MAGIC + struct.pack("<QQ", 3, 0) + END + END, "version 3"),
        (MAGIC + struct.pack("<QQ", 2, 7) + END + END, "this one says 7"),
        (MAGIC + struct.pack("<QQ", 2, 0) + END, "before its end mark"),
        (MAGIC + struct.pack("<QQ", 2, 0) + END + END + b"!", "1 bytes follow"),
        (MAGIC + struct.pack("<QQ", 2, 0) + bytes(32) + b"\0\0\0\xc0\xff\xff\xff\xff" + bytes(8) + END, "does not fit"),
        (MAGIC + struct.pack("<QQ", 2, 0) + END + bytes(36) + b"\xff\xff\xff\xff" + bytes(8) + END, "before its end"),
    ],
)
def test_what_is_wrong_with_a_shard_is_said(body, words):
    with pytest.raises(XetFormatError, match=words):
        Shard(body)


def test_broken_shards_raise_nothing_but_the_error_of_the_format():
    rng = random.Random(0)
    body = small_shard()
    for length in range(len(body)):
        with pytest.raises(XetFormatError):
            Shard(body[:length])
    for _ in range(5000):
        damaged = bytearray(body)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(body))] = rng.choice((0, 255, rng.randrange(256)))
        with contextlib.suppress(XetFormatError):
            read_all(Shard(bytes(damaged)))


def test_a_shard_costs_the_memory_of_its_bytes():
    entry = bytes(32) + struct.pack("<IIQ", 0, 0, 0)
    body = MAGIC + struct.pack("<QQ", 2, 0) + entry * 20_000 + END + entry * 20_000 + END
    tracemalloc.start()
    shard = Shard(body)
    assert sum(1 for _ in shard.files()) == sum(1 for _ in shard.xorbs()) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 500_000
    tracemalloc.stop()


def test_hashes_are_those_of_the_client(tmp_path: Path):
    """The client hashes files without a server; a file below 8 KiB is one chunk."""
    paths = [tmp_path / str(size) for size in (1, 100, 8000)]
    for path in paths:
        path.write_bytes(os.urandom(int(path.name)))
    found = [info.hash for info in hf_xet.hash_files([str(path) for path in paths])]
    contents = [path.read_bytes() for path in paths]
    assert found == [to_text(hash_file([(hash_chunk(content), len(content))])) for content in contents]


def test_the_tree_of_hashes_has_the_shape_that_the_protocol_gives_it():
    """Values that the reference implementation states for itself."""
    a = from_text("cfc5d07f6f03c29bbf424132963fe08d19a37d5757aaf520bf08119f05cd56d6")
    b = from_text("c3e67584b5c4fc2a89837ec39e40f2c8a6bb0b2987ac94cd4b31e5fbdd210a72")
    c = from_text("0d2beb91b9196929a5ddec9f6e306924ddf4a24268e3e59fd8464738d525af37")
    d = from_text("adf8773496a9b7319b2e50dc98093f344053b17d8ad37100b9c07d9805988784")
    six = [(a, 100), (b, 200), (a, 100), (b, 200), (c, 300), (d, 400)]
    assert to_text(hash_xorb(six)) == "52c826f99507aa05d0b45e9837fa1709e0485425cfbcb1e80db3905cf98b3ee9"
    assert to_text(hash_file(six)) == "91d21684db364c8883ab8209fa5eb2e781cf07f37e1fa43e731c30839afe422f"
    assert hash_xorb([(a, 100)]) == a
    assert hash_file([]) == hash_xorb([]) == bytes(32)


@pytest.mark.parametrize("text", ["", "a" * 63, "A" * 64, "g" * 64, "é" * 64, "a" * 65])
def test_a_hash_is_64_lower_case_digits(text):
    with pytest.raises(ValueError, match="64 lower-case"):
        from_text(text)
