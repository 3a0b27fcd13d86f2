"""Xorbs and files of a repo are kept whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from xet_bytes import File, Xorb, make_shard, pack_chunk

from hfplug.hub.server.store import ObjectStore
from hfplug.hub.server.xet_files import RangeError, ShardError, XetFiles
from hfplug.hub.server.xet_formats import LARGEST_CHUNK, LARGEST_XORB, Shard, XetFormatError
from hfplug.hub.server.xet_hashes import to_text
from hfplug.hub.server.xet_store import XorbStore

ONE = Xorb([os.urandom(9000), bytes(20_000), b"abc" * 5000, b"end"])
TWO = Xorb([os.urandom(10_000), b"x"])
TERMS = [(ONE, 1, 3), (TWO, 0, 2), (ONE, 0, 4), (ONE, 1, 2)]
CONTENT = b"".join(chunk for xorb, start, end in TERMS for chunk in xorb.chunks[start:end])
SHA256 = hashlib.sha256(CONTENT).digest()


class Place:
    """A repo's folder and a server's xorbs."""

    def __init__(self, root: Path) -> None:
        (root / "repo").mkdir()
        self.objects = ObjectStore(root / "repo")
        self.objects.put(b"the repo is there")
        self.xorbs = XorbStore(root / "xet")
        self.files = XetFiles(self.objects, self.xorbs)
        self.root = root

    def add(self, body: bytes, xorb: bytes) -> str:
        draft = self.xorbs.draft()
        draft.write_bytes(body)
        return self.xorbs.add(draft, xorb)

    def take_in(self, *files: File, xorbs: tuple[Xorb, ...] = ()) -> int:
        return self.files.take_in(Shard(make_shard(files, xorbs)))

    def everything(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def filled(place: Place) -> Place:
    for xorb in (ONE, TWO):
        assert place.add(xorb.body, xorb.hash) == "added"
    return place


def test_a_file_is_put_together_and_found_by_both_of_its_hashes(filled: Place) -> None:
    file = File(TERMS, SHA256)
    assert filled.take_in(file, xorbs=(ONE, TWO)) == 1
    assert filled.objects.read(SHA256.hex()) == CONTENT
    assert filled.objects.xet_hash(SHA256.hex()) == to_text(file.hash)
    assert filled.files.tidy() == {ONE.hash, TWO.hash}
    assert filled.take_in(file) == 0


def test_an_empty_file_is_a_file(place: Place) -> None:
    empty = hashlib.sha256(b"").digest()
    assert place.take_in(File([], empty)) == 1
    assert place.objects.read(empty.hex()) == b""
    plan = place.files.plan(bytes(32))
    assert plan is not None and plan.pieces == []


@pytest.mark.parametrize(
    "start, end",
    [(0, None), (0, 1), (0, 20_000), (19_999, 20_001), (1, len(CONTENT)), (35_000, 45_002), (40_000, 45_001)]
    + [(len(CONTENT) - 1, None), (20_000, 35_000), (12_345, 67_890), (5, 10**12)],
)
def test_a_plan_for_a_range_holds_that_range_and_whole_chunks_only(filled: Place, start: int, end: int | None) -> None:
    file = File(TERMS, SHA256)
    filled.take_in(file)
    plan = filled.files.plan(file.hash, start, end)
    assert plan is not None
    pieces = [b"".join(filled.xorbs.content(piece.xorb, piece.start, piece.end)) for piece in plan.pieces]
    assert [len(piece) for piece in pieces] == [piece.size for piece in plan.pieces]
    wanted = CONTENT[start:end]
    assert b"".join(pieces)[plan.skip : plan.skip + len(wanted)] == wanted
    # At most the rest of one chunk too much at either end.
    assert len(b"".join(pieces)) < len(wanted) + 2 * 20_000


def test_no_plan_for_an_unknown_file_nor_beyond_the_end(filled: Place) -> None:
    file = File(TERMS, SHA256)
    assert filled.files.plan(file.hash) is None
    filled.take_in(file)
    with pytest.raises(RangeError, match=f"has {len(CONTENT)} bytes"):
        filled.files.plan(file.hash, len(CONTENT))


def test_a_xorb_sent_again_is_there_already(filled: Place) -> None:
    assert filled.add(ONE.body, ONE.hash) == "there already"


def test_a_xorb_may_hold_64_mib_of_noise(place: Place) -> None:
    xorb = Xorb([os.urandom(LARGEST_CHUNK) for _ in range(512)])
    assert 64 << 20 < len(xorb.body) < LARGEST_XORB
    assert place.add(xorb.body, xorb.hash) == "added"


def test_a_xorb_that_unpacks_to_more_than_the_limit_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    xorb = Xorb([bytes(LARGEST_CHUNK)] * 16)
    monkeypatch.setattr("hfplug.hub.server.xet_store.MOST_CONTENT", 16 * LARGEST_CHUNK - 1)
    with pytest.raises(XetFormatError, match="bytes of content"):
        place.add(xorb.body, xorb.hash)
    monkeypatch.setattr("hfplug.hub.server.xet_store.MOST_CHUNKS", 15)
    with pytest.raises(XetFormatError, match="more than 15 chunks"):
        place.add(xorb.body, xorb.hash)


def test_a_footer_is_not_kept(place: Place) -> None:
    place.add(ONE.body + b"XETBLOB\x01" + bytes(200), ONE.hash)
    index = place.xorbs.index(ONE.hash)
    assert index is not None and index.place(len(index)) == len(ONE.body)
    assert place.xorbs.path(ONE.hash).read_bytes().startswith(ONE.body)
    assert b"XETBLOB" not in place.xorbs.path(ONE.hash).read_bytes()


@pytest.mark.parametrize(
    "body, words",
    [
        (ONE.body[:-1], "bytes early"),
        (ONE.body[: -len(b"end") - 8], "the xorb that came has hash"),
        (TWO.body, "the xorb that came has hash"),
        (b"", "holds no chunk"),
        (ONE.body.replace(b"end", b"END"), "the xorb that came has hash"),
        (os.urandom(5000).replace(b"\0", b"\1"), "is not known"),
    ],
    ids=["cut", "a chunk fewer", "another", "empty", "changed", "noise"],
)
def test_a_wrong_xorb_leaves_nothing(place: Place, body: bytes, words: str) -> None:
    before = place.everything()
    with pytest.raises(XetFormatError, match=words):
        place.add(body, ONE.hash)
    assert place.everything() == before


@pytest.mark.parametrize(
    "file, words",
    [
        (File(TERMS, None), "does not state the SHA-256"),
        (File(TERMS, hashlib.sha256(b"other").digest()), "have sha256"),
        (File(TERMS, SHA256, proofs=[]), "have no verification hashes"),
        (File(TERMS, SHA256, proofs=[bytes(32)] * 4), "not proven"),
        (File(TERMS, SHA256, file_hash=bytes(32)), "have another hash"),
        (File(TERMS, SHA256, sizes=[1, 2, 3, 4]), "does not have the size"),
        (File([(Xorb([b"never sent"]), 0, 1)], SHA256), "upload it again"),
        (File([(ONE, 2, 5)], SHA256), "has no chunks 2 to 5"),
        (File([(ONE, 2, 2)], SHA256), "has no chunks 2 to 2"),
        (File([(ONE, 3, 2)], SHA256), "has no chunks 3 to 2"),
        (File([(ONE, 0, 2**20)], SHA256), "has no chunks 0 to 1048576"),
    ],
)
def test_an_untrue_shard_leaves_nothing(filled: Place, file: File, words: str) -> None:
    before = filled.everything()
    with pytest.raises(ShardError, match=words):
        filled.take_in(file)
    assert filled.everything() == before


def test_a_shard_is_refused_as_a_whole_before_any_of_its_files_is_put_together(filled: Place) -> None:
    before = filled.everything()
    with pytest.raises(ShardError, match="not proven"):
        filled.take_in(File(TERMS, SHA256), File([(TWO, 0, 1)], SHA256, proofs=[bytes(32)]))
    assert filled.everything() == before


def test_a_shard_that_describes_other_chunks_than_were_sent_is_refused(filled: Place) -> None:
    class Liar(Xorb):
        hash = ONE.hash

    with pytest.raises(ShardError, match="other chunks than the shard says"):
        filled.take_in(xorbs=(Liar(TWO.chunks),))
    with pytest.raises(ShardError, match="was not uploaded"):
        filled.take_in(xorbs=(Xorb([b"never sent"]),))


@pytest.mark.parametrize("limit, value", [("MOST_BYTES", len(CONTENT)), ("MOST_CHUNKS", 9)])
def test_a_shard_that_describes_more_than_the_limit_is_refused(
    filled: Place, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(f"hfplug.hub.server.xet_files.{limit}", value - 1)
    with pytest.raises(ShardError, match=f"too much: {len(CONTENT):,} bytes in 9 chunks"):
        filled.take_in(File(TERMS, SHA256))
    monkeypatch.setattr(f"hfplug.hub.server.xet_files.{limit}", value)
    assert filled.take_in(File(TERMS, SHA256)) == 1


def test_a_short_shard_that_would_take_hours_is_refused_at_once(filled: Place) -> None:
    start = time.monotonic()
    with pytest.raises(ShardError, match="too much"):
        filled.take_in(File([(ONE, 0, 2**32 - 1)] * 5000, SHA256, proofs=[bytes(32)] * 5000, sizes=[1] * 5000))
    assert time.monotonic() - start < 5


def test_a_content_that_came_without_xet_gets_its_xet_hash_when_it_comes_through_xet(filled: Place) -> None:
    filled.objects.put(CONTENT)
    assert filled.take_in(File(TERMS, SHA256)) == 1
    assert filled.objects.xet_hash(SHA256.hex()) is not None


def test_a_xet_hash_is_not_taken_on_trust_because_the_content_is_there(filled: Place) -> None:
    filled.take_in(File(TERMS, SHA256))
    with pytest.raises(ShardError, match="have sha256"):
        filled.take_in(File([(TWO, 0, 2)], SHA256))


@pytest.mark.parametrize("length", [0, 3, 4, 100, len(ONE.body), len(ONE.body) + 50, len(ONE.body) + 163])
def test_a_xorb_that_was_cut_short_on_the_disk_is_not_there_and_can_be_sent_again(filled: Place, length: int) -> None:
    with open(filled.xorbs.path(ONE.hash), "rb+") as file:
        file.truncate(length)
    with pytest.raises(ShardError, match="upload it again"):
        filled.take_in(File(TERMS, SHA256))
    assert filled.add(ONE.body, ONE.hash) == "added"
    assert filled.take_in(File(TERMS, SHA256)) == 1


def test_a_changed_byte_of_a_xorb_on_the_disk_is_noticed(filled: Place) -> None:
    with open(filled.xorbs.path(ONE.hash), "rb+") as file:
        file.seek(100)  # within the first chunk, which is not compressed
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ShardError, match="have sha256"):
        filled.take_in(File(TERMS, SHA256))
    assert not filled.objects.has(SHA256.hex())


def test_a_xorb_that_is_packed_otherwise_does_not_replace_the_one_that_links_point_into(filled: Place) -> None:
    other = b"".join(pack_chunk(chunk) for chunk in ONE.chunks)
    assert other != ONE.body
    assert filled.add(other, ONE.hash) == "there already"
    assert filled.xorbs.path(ONE.hash).read_bytes().startswith(ONE.body)


def test_a_sweep_deletes_old_xorbs_that_nothing_names_and_what_is_half_written(filled: Place) -> None:
    filled.take_in(File([(ONE, 0, 1)], hashlib.sha256(ONE.chunks[0]).digest()))
    filled.xorbs.draft().write_bytes(b"half")
    assert filled.xorbs.sweep(filled.files.tidy()) == 0
    long_ago = time.time() - 40 * 24 * 3600
    for xorb in (ONE, TWO):
        os.utime(filled.xorbs.path(xorb.hash), (long_ago, long_ago))
    assert filled.xorbs.sweep(filled.files.tidy()) == 1
    assert filled.xorbs.has(ONE.hash) and not filled.xorbs.has(TWO.hash)
    assert not any("incoming/" in name and name.startswith("xet") for name in filled.everything())


def test_a_file_whose_xorb_has_gone_is_no_longer_offered_through_xet(filled: Place) -> None:
    file = File(TERMS, SHA256)
    alone = hashlib.sha256(TWO.chunks[0]).digest()
    filled.take_in(file, File([(TWO, 0, 1)], alone))
    filled.xorbs.path(ONE.hash).unlink()
    assert filled.files.tidy() == {TWO.hash}
    assert filled.objects.xet_hash(SHA256.hex()) is None and filled.files.plan(file.hash) is None
    assert filled.objects.read(SHA256.hex()) == CONTENT
    assert filled.objects.xet_hash(alone.hex()) is not None
    filled.add(ONE.body, ONE.hash)
    assert filled.take_in(file) == 1


def test_one_of_many_who_send_a_xorb_at_once_adds_it(place: Place) -> None:
    bodies = [b"".join(pack_chunk(chunk, scheme) for chunk in ONE.chunks) for scheme in (0, 1, 2)] * 4
    with ThreadPoolExecutor(len(bodies)) as threads:
        outcomes = list(threads.map(lambda body: place.add(body, ONE.hash), bodies))
    assert outcomes.count("added") == 1 and outcomes.count("there already") == len(bodies) - 1
    assert b"".join(place.xorbs.content(ONE.hash, 0, 4)) == b"".join(ONE.chunks)
    assert not list((place.root / "xet" / "incoming").iterdir())


def test_a_store_that_was_emptied_has_another_name(place: Place) -> None:
    name = place.xorbs.name()
    assert name == place.xorbs.name() == XorbStore(place.root / "xet").name()
    shutil.rmtree(place.root / "xet")
    assert place.xorbs.name() != name


def test_a_xorb_that_is_named_again_is_young_again(filled: Place) -> None:
    long_ago = time.time() - 40 * 24 * 3600
    os.utime(filled.xorbs.path(ONE.hash), (long_ago, long_ago))
    filled.take_in(File([(ONE, 0, 1)], hashlib.sha256(ONE.chunks[0]).digest()))
    assert filled.xorbs.sweep(set()) == 0
