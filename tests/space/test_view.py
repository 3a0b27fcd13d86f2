"""Columns as HTML: every text is text, marks are seen and said, a blind round names nothing."""

from __future__ import annotations

import dataclasses
import html.parser

import pytest

from hfplug.comparison.words import Span
from hfplug.space.columns import Column, with_rouge
from hfplug.space.view import blind_label, columns_html, escaped, marked_html, notice_html

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;"
FIELDS = {
    "name": MARKUP, "method": MARKUP, "source": MARKUP, "banner": MARKUP, "text": f"They met. {MARKUP}",
}  # fmt: skip


class Read(html.parser.HTMLParser):
    """The elements of a fragment, and its text."""

    def __init__(self, fragment):
        super().__init__()
        self.elements, self.attributes, self.words = [], [], ""
        self.feed(fragment)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.words += data


def column(name="lora", kind="adapter", text="They met.", state="done", **more):
    return Column(name=name, kind=kind, method="lora", text=text, state=state, **more)


def test_markup_in_every_field_of_a_column_is_text():
    hostile = Column(kind="adapter", state="done", trainable_parameters=5, disk_bytes=5, **FIELDS)
    columns = [column("base", "base", "They met."), hostile, dataclasses.replace(hostile, problem=MARKUP)]
    for fragment in (
        columns_html(columns, dialogue=MARKUP, labels=(MARKUP,) * 3),
        columns_html(columns, names="hidden", dialogue=MARKUP),
        notice_html("error", MARKUP, MARKUP),
    ):
        read = Read(fragment)
        assert {"script", "img"} & set(read.elements) == set()
        assert not [name for name, _ in read.attributes if name.startswith("on")]
        assert "<script>alert(1)</script>" in read.words


def test_escaped_text_shows_control_characters_and_cannot_turn_the_page_around():
    assert escaped("a\x00b\x1bc\u202ed\ud800\n") == "a\ufffdb\ufffdcd\ufffd\n"


def test_marks_stand_where_the_spans_are_with_markup_inside_them():
    assert marked_html("a <b> c", [Span(2, 5)]) == "a <mark>&lt;b&gt;</mark> c"


def test_words_that_the_base_does_not_have_are_marked_once_both_have_finished():
    base, other = column("base", "base", "They met."), column(text="They ran.")
    assert "<mark>ran</mark>" in columns_html([base, other])
    assert "<mark>ran" not in columns_html([dataclasses.replace(base, state="writing"), other])
    assert "<mark>They" not in columns_html([other])  # nothing to compare with


def test_names_that_the_dialogue_lacks_are_said():
    shown = columns_html([column(text="Ann met Zoe at 7.")], dialogue="Ann: Hello.")
    assert "Not in the dialogue: Zoe, 7." in Read(shown).words


@pytest.mark.parametrize("state", ["done", "length", "stopped", "failed"])
def test_a_blind_round_shows_answers_and_nothing_else(state):
    figures = {"trainable_parameters": 123, "disk_bytes": 456_000, "tokens_per_second": 7.0, "banner": "Drifted."}
    columns = [
        column("base", "base", "One."),
        column("lora", text="Two.", state=state, rouge={"rouge1": 0.5}, **figures),
    ]
    if state == "failed":
        columns[1] = dataclasses.replace(columns[1], problem="'lora' has no memory.")
    words = Read(columns_html(columns, names="hidden")).words
    assert "Answer A" in words and "Answer B" in words
    for word in ("lora", "base", "123", "456", "7.0", "Drifted", "50.0"):
        assert word not in columns_html(columns, names="hidden"), word


def test_blind_answers_come_together():
    columns = [column(text="One."), column("base", "base", "Two", state="writing")]
    shown = columns_html(columns, names="hidden")
    assert "One." not in shown and "Two" not in shown and shown.count('data-state="writing"') == 2


def test_blind_labels_go_on_after_z():
    assert [blind_label(at) for at in (0, 25, 26, 27)] == ["Answer A", "Answer Z", "Answer AA", "Answer AB"]


def test_no_columns_say_what_to_do():
    assert "press <b>Compare</b>" in columns_html(())


def test_what_was_not_measured_is_a_dash_and_never_a_zero():
    words = Read(columns_html([column(state="waiting", text="")])).words
    assert "First token–" in words and "Speed–" in words


def test_a_text_that_rouge_cannot_count_has_no_score():
    assert with_rouge(column(text="They met."), ["They met."]).rouge["rouge1"] == 1.0
    assert with_rouge(column(text="他们见面"), ["他们见面"]).rouge == {}
    assert with_rouge(column(), ["  "]).rouge == {}
