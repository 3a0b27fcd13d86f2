"""An address brings somebody else to the same comparison, and a bad one to a page with a note."""

from __future__ import annotations

import urllib.parse

import pytest

from hfplug.space.permalinks import DECODING, Link, decode_link, encode_link

LINK = Link(
    example="test-0-00001",
    variants=("lora", "base", "me/other@0123abc"),
    task="summary",
    decoding={"max_new_tokens": 40, "temperature": 0.7, "top_p": 0.95, "num_beams": 2},
    seed=7,
    blind="on",
)
QUERY = (
    "example=test-0-00001&variants=lora,base,me/other@0123abc&task=summary&max_new_tokens=40&temperature=0.7&top_p=0.95"
    "&num_beams=2&seed=7&blind=on"
)


def test_a_link_comes_back_as_it_went_from_a_text_or_from_its_parts():
    assert encode_link(LINK) == QUERY
    assert decode_link(QUERY) == decode_link(f"?{QUERY}") == (LINK, ())
    assert decode_link(dict(urllib.parse.parse_qsl(QUERY))) == (LINK, ())
    assert encode_link(Link()) == "" and decode_link("") == (Link(), ())


def test_only_what_is_here_is_taken_and_the_rest_is_noted():
    known = {"examples": ["a"], "variants": ["base", "lora"], "tasks": ["summary"]}
    link, notes = decode_link("example=b&variants=lora,gone&task=title&seed=1", **known)
    assert link == Link(variants=("lora",), seed=1)
    assert len(notes) == 3 and any("columns that are not here" in note for note in notes)
    assert decode_link("variants=gone", **known)[0].variants == ()


@pytest.mark.parametrize(
    "query",
    [
        "seed=-1", "seed=1.5", "seed=99999999999", "seed=1_000", "seed=٣", "seed= 1", "temperature=nan",
        "temperature=inf", "temperature=1e3", "temperature=-1", "temperature=9", "max_new_tokens=0",
        "max_new_tokens=100000", "num_beams=99", "blind=yes", "example=../x", "example=<script>",
        "example=" + "x" * 65, "variants=<b>", "variants=,", "task=a b", "variants=../x", "example=%00",
    ],
)  # fmt: skip
def test_what_is_out_of_range_or_no_name_is_left_out_with_a_note_that_does_not_repeat_it(query):
    link, notes = decode_link(query)
    assert link == Link()
    (note,) = notes
    assert "<" not in note and query.partition("=")[2] not in ("", *note.split())


@pytest.mark.parametrize(
    "query", ["x" * 100_000, "seed=1&" * 1000, "&".join(f"a{n}=1" for n in range(200)), {"seed": "1" * 9000}]
)
def test_a_long_one_is_not_read_at_all(query):
    link, notes = decode_link(query)
    assert link == Link() and len(notes) == 1


def test_parts_of_others_are_left_alone_and_a_part_that_comes_twice_counts_once():
    assert decode_link("__theme=dark&logs=container&seed=3") == (Link(seed=3), ())
    link, notes = decode_link("seed=3&seed=4")
    assert link.seed == 3 and "twice" in notes[0]


def test_columns_are_counted_once_and_not_without_end():
    many = ",".join(f"v{n}" for n in range(60))
    assert len(decode_link(f"variants={many}")[0].variants) == 17
    assert decode_link("variants=a,a,b")[0].variants == ("a", "b")


def test_the_settings_are_those_that_the_service_takes():
    from dataclasses import fields

    from hfplug.serving.service import Decoding

    assert set(DECODING) < {item.name for item in fields(Decoding)}
