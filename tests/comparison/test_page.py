"""The page: opens without a network, runs nothing, shows what it was given as text."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from report_samples import sample_examples, sample_report

from hfplug.comparison.page import render_page
from hfplug.comparison.variants import Report

HOSTILE = "</title><script>alert('x')</script><img src=x onerror=alert(1)> & \"q\" $x$ {{ 7*7 }}"


class _Seen(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _seen(page: str) -> _Seen:
    parser = _Seen()
    parser.feed(page)
    return parser


def _hostile_report() -> Report:
    report = sample_report()
    renamed = dataclasses.replace(report.variants[2], name=HOSTILE, notes=(HOSTILE,))
    return sample_report(
        base={"name": HOSTILE},
        task={"name": HOSTILE, "prompt": HOSTILE},
        settings={HOSTILE: HOSTILE},
        data={"source": HOSTILE, "eval_rows": 40},
        variants=(*report.variants[:2], renamed, *report.variants[3:]),
    )


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(sample_report(), examples=sample_examples())[0]


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    seen = _seen(page)
    for name, value in seen.attributes:
        assert name not in ("src", "srcset", "action", "data", "poster"), (name, value)
        assert not name.startswith("on"), (name, value)
        if name.endswith("href"):
            assert value.startswith("#")
    assert not {"script", "link", "iframe", "object", "embed", "base", "image", "img"} & set(seen.tags)
    assert "://" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "@import" not in page


def test_references_inside_the_drawings_lead_somewhere_and_names_are_unique(page: str) -> None:
    attributes = _seen(page).attributes
    names = [value for name, value in attributes if name == "id"]
    assert len(names) == len(set(names))
    used = {value[1:] for name, value in attributes if name == "href"} | set(re.findall(r"url\(#(.+?)\)", page))
    assert used <= set(names)


def test_every_text_is_shown_and_none_is_run() -> None:
    examples = [{"dialogue": HOSTILE, "references": [HOSTILE], "outputs": {HOSTILE: HOSTILE, "base": ""}}]
    page, note = render_page(_hostile_report(), examples=examples)
    seen = _seen(page)
    assert note is None
    assert not {"script", "img"} & set(seen.tags)
    assert sum(HOSTILE in text for text in seen.texts) >= 8
    assert "<script" not in page
    assert "(nothing)" in page


def test_the_page_has_all_tables_plots_and_at_most_ten_examples(page: str) -> None:
    seen = _seen(page)
    assert seen.tags.count("table") == 3
    titles = [text for text in seen.texts if text.startswith("Quality against")]
    assert titles == [
        "Quality against peak training memory",
        "Quality against trainable parameters",
        "Quality against training time",
    ]
    assert {"ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum", "Training loss", "Evaluation loss"} <= set(seen.texts)
    assert seen.tags.count("svg") == 9
    assert page.count('class="example"') == 10


def test_drawings_take_the_colours_of_the_page(page: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--ink)" in drawings
    assert "var(--series-4)" in drawings
    assert re.findall(r"#0[1-5]0[0-9a-f]{3}\b", drawings) == []
    assert "prefers-color-scheme: dark" in page


def test_a_report_without_figures_still_makes_a_page() -> None:
    bare = sample_report(variants=({"name": "base", "kind": "base"},), machine={}, versions={}, settings={})
    page, note = render_page(bare)
    assert note is not None
    assert "nothing to plot" in note
    assert _seen(page).tags.count("table") == 2


def test_outputs_stand_in_the_order_of_the_table() -> None:
    outputs = {"stranger": "c", "lora": "b", "base": "a"}
    page, _ = render_page(sample_report(), examples=[{"dialogue": "d", "outputs": outputs}], plots="never")
    shown = re.findall(r"<h3>(\w+)</h3>", page)
    assert shown == ["base", "lora", "stranger"]
