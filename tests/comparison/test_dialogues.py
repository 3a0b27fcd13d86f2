"""The page of every dialogue: marks, flags, wins and losses, with a script and without one."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from report_samples import DIALOGUES, OUTPUTS, REFERENCES, sample_report

from hfplug.comparison.dialogues import ROWS_A_PAGE, DialogueRow, marked, render_dialogues
from hfplug.comparison.marks import Span
from hfplug.comparison.report import write_report
from hfplug.comparison.rouge import score_rows

HOSTILE = "</title></script><script>window.hacked = 1</script><img src=x onerror=window.hacked=1> & \"q\" 'x' {{ 7*7 }}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def sample_rows() -> list[DialogueRow]:
    scores = {name: score_rows(texts, REFERENCES) for name, texts in OUTPUTS.items()}
    return [
        DialogueRow(
            id=at,
            text=DIALOGUES[at],
            references=REFERENCES[at],
            outputs={name: texts[at] for name, texts in OUTPUTS.items()},
            scores={
                name: {metric: float(values[at]) for metric, values in s.mean.items()} for name, s in scores.items()
            },
        )
        for at in range(len(DIALOGUES))
    ]


class _Seen(HTMLParser):
    """Tags, attributes, and the ids of the rows in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[int] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "article":
            self.rows.append(int(dict(attrs)["id"].removeprefix("row-")))


@pytest.fixture(scope="module")
def page() -> str:
    return render_dialogues(sample_report(), sample_rows(), back="report.html")


# ------------------------------------------------------------------------------------------------ as a text


def test_without_a_script_every_row_is_there_the_largest_differences_first(page):
    rows = _Seen(page).rows
    assert sorted(rows) == list(range(len(DIALOGUES)))
    scores = [row.scores for row in sample_rows()]
    gaps = [abs(scores[row]["full"]["rouge1"] - scores[row]["base"]["rouge1"]) for row in rows]
    assert gaps == sorted(gaps, reverse=True)


def test_nothing_is_loaded_from_elsewhere_and_only_the_pages_own_script_may_run(page):
    for name, value in _Seen(page).attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith("#row-") or value == "report.html"
        assert not name.startswith("on")
    assert "default-src 'none'" in page and re.search(r"script-src 'sha256-[\w+/]{43}='", page)


def test_names_that_are_nowhere_in_the_dialogue_are_listed_and_counted():
    row = DialogueRow(
        id=3, text="Ann: Hi Bo.", references=["Ann greets Bo."], outputs={"base": "Ann met Zoe and Max, says Zoe."}
    )
    page = render_dialogues(sample_report(), [row], back="report.html")
    assert "not in the dialogue: Zoe, Max" in page
    assert page.count('<mark class="flagged">Zoe</mark>') == 2
    base = re.search(r'<tr><th scope="row" title="base">.*?</tr>', page, flags=re.DOTALL)[0]
    assert re.findall(r"<td>(.*?)</td>", base)[:2] == ["1", "2"]


def test_words_of_the_reference_are_marked(page):
    assert '<mark class="shared">' in page
    row = DialogueRow(id=0, text="x", references=["Ann buys it."], outputs={"base": "Tom buys it now"})
    assert 'Tom <mark class="shared">buys it</mark> now' in render_dialogues(sample_report(), [row], back="r").replace(
        '<mark class="flagged">Tom</mark>', "Tom"
    )


def test_marks_that_overlap_are_cut_where_they_start_and_end():
    parts = marked("one two three", [Span(0, 7)], [Span(4, 13)])
    assert parts == [("one ", "shared"), ("two", "shared flagged"), (" three", "flagged")]
    assert marked("", [], []) == []


def test_markup_in_any_text_stays_text():
    report = sample_report(base={"name": HOSTILE})
    row = DialogueRow(
        id=0,
        text=HOSTILE,
        references=[HOSTILE],
        outputs={"base": HOSTILE, "full": ""},
        scores={"base": {"rouge1": 0.5}},
    )
    page = render_dialogues(report, [row], back="report.html")
    seen = _Seen(page)
    assert seen.tags.count("script") == 2 and "img" not in seen.tags
    assert "{{ 7*7 }}" in page and "(nothing)" in page


def test_names_in_the_scripts_data_cannot_end_it():
    rows = [DialogueRow(id=0, text="x", references=["y"], outputs={"a</script><b>": "z"})]
    report = sample_report(variants=({"name": "a</script><b>", "kind": "adapter"},))
    page = render_dialogues(report, rows, back="report.html")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    assert json.loads(data)["variants"] == ["a</script><b>"]


def test_a_report_with_rows_has_the_page_and_a_link_to_it(tmp_path):
    written = write_report(sample_report(), tmp_path, dialogues=sample_rows(), plots="never")
    assert written["dialogues"].name == "dialogues.html"
    assert 'href="dialogues.html"' in written["html"].read_text(encoding="utf-8")
    assert 'href="report.html"' in written["dialogues"].read_text(encoding="utf-8")


def test_a_report_without_rows_has_no_such_page(tmp_path):
    written = write_report(sample_report(), tmp_path, plots="never")
    assert "dialogues" not in written and not (tmp_path / "dialogues.html").exists()
    assert "dialogues.html" not in written["html"].read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium was found on the PATH")
    with playwright.sync_playwright() as running:
        made = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens rows in a browser; what its console says is in ``messages`` of the page."""
    contexts = []

    def make(rows=None, report=None, at="", **options):
        file = tmp_path / "dialogues.html"
        file.write_text(
            render_dialogues(report or sample_report(), rows or sample_rows(), back="report.html"), encoding="utf-8"
        )
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        tab = contexts[-1].new_page()
        tab.messages = []
        tab.on("console", lambda message: tab.messages.append(message.text))
        tab.on("pageerror", lambda error: tab.messages.append(str(error)))
        tab.goto(f"{file.as_uri()}{at}")
        return tab

    yield make
    for context in contexts:
        context.close()


def shown(tab) -> list[int]:
    return [int(row.removeprefix("row-")) for row in tab.eval_on_selector_all("article", "all => all.map(a => a.id)")]


def seen(tab, selector: str) -> str:
    """The text of a row's part once it is drawn: the browser draws a row only where it is looked at."""
    part = tab.locator(selector).first
    part.scroll_into_view_if_needed()
    return part.inner_text()


def gaps(metric="rouge1", first="full", second="base") -> list[float]:
    return [100 * (row.scores[first][metric] - row.scores[second][metric]) for row in sample_rows()]


def test_rows_come_in_pages_that_the_keyboard_turns(open_page):
    tab = open_page()
    assert len(shown(tab)) == ROWS_A_PAGE
    assert tab.inner_text("nav.pages >> nth=0 >> p") == "1–20 of 40, page 1 of 2"
    first = set(shown(tab))
    tab.focus("nav.pages >> nth=1 >> text=Next")
    tab.keyboard.press("Enter")
    assert first.isdisjoint(shown(tab)) and tab.is_disabled("nav.pages >> nth=0 >> text=Next")
    assert tab.evaluate("document.activeElement.textContent") == "Previous"
    assert tab.messages == []


def test_the_largest_losses_of_a_chosen_pair_and_score_come_first(open_page):
    tab = open_page()
    tab.select_option("#metric", label="ROUGE-2")
    tab.select_option("#first", "lora")
    tab.select_option("#second", "full")
    tab.select_option("#order", "loss")
    values = gaps("rouge2", "lora", "full")
    assert [values[row] for row in shown(tab)] == sorted(values)[:ROWS_A_PAGE]
    worst = min(values)
    assert seen(tab, "article .gap") == f"lora against full: −{abs(worst):.1f} points of ROUGE-2"
    better, worse = sum(value > 1e-9 for value in values), sum(value < -1e-9 for value in values)
    said = f"lora is better than full in {better}, worse in {worse} and equal in {40 - better - worse} of 40"
    assert said in tab.inner_text("#tally")
    assert tab.eval_on_selector_all("article:first-child .chosen h3", "all => all.map(a => a.textContent)") == [
        "full",
        "lora",
    ]


def test_rows_are_found_by_a_word_and_none_is_said(open_page):
    tab = open_page()
    tab.fill("#find", "PIANO")
    assert set(shown(tab)) == {row.id for row in sample_rows() if "piano" in row.text}
    tab.fill("#find", "no such word")
    assert shown(tab) == [] and "No dialogue is like that" in tab.inner_text("nav.pages >> nth=0")


def test_only_rows_with_a_flag_are_shown_if_wanted(open_page):
    rows = sample_rows()
    flagged = DialogueRow(**{**vars(rows[7]), "outputs": {**rows[7].outputs, "full": "They met Zoe."}})
    tab = open_page([*rows[:7], flagged, *rows[8:]])
    tab.select_option("#show", "flags")
    assert shown(tab) == [7]


def test_a_link_to_a_row_turns_to_its_page(open_page):
    last = sorted(range(40), key=lambda row: abs(gaps()[row]))[0]
    tab = open_page(at=f"#row-{last}")
    assert last in shown(tab) and "page 2 of 2" in tab.inner_text("nav.pages >> nth=0")


def test_without_javascript_all_rows_are_there_and_no_control_is(open_page):
    tab = open_page(java_script_enabled=False)
    assert len(tab.query_selector_all("article")) == 40
    assert not tab.is_visible("#controls") and not tab.is_visible("nav.pages >> nth=0")
    assert "largest differences between full and base come first" in tab.inner_text("#tally")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_and_every_field_has_a_label(open_page, width, scheme, tmp_path):
    rows = sample_rows()
    wide = DialogueRow(**{**vars(rows[0]), "text": "x" * 400, "outputs": {**rows[0].outputs, "lora": "y" * 400}})
    tab = open_page([wide, *rows[1:]], viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.screenshot(path=tmp_path / f"dialogues-{scheme}-{width}.png", full_page=True)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    unnamed = "all => all.filter(a => !a.labels || !a.labels.length || !a.labels[0].textContent.trim()).length"
    assert tab.eval_on_selector_all("select, input", unnamed) == 0
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")


def test_markup_in_a_text_is_shown_and_never_run(open_page):
    names = (HOSTILE, "base")
    variants = ({"name": HOSTILE, "kind": "adapter"}, {"name": "base", "kind": "base"})
    row = DialogueRow(
        id=0,
        text=HOSTILE,
        references=[HOSTILE],
        outputs=dict.fromkeys(names, HOSTILE),
        scores={name: {"rouge1": 0.5} for name in names},
    )
    tab = open_page([row], sample_report(base={"name": HOSTILE}, variants=variants))
    tab.select_option("#order", "win")
    assert tab.evaluate("window.hacked") is None and tab.messages == []
    assert HOSTILE in seen(tab, "article .dialogue") and HOSTILE in seen(tab, "article .gap")


@pytest.mark.slow
def test_fifteen_hundred_rows_open_in_seconds(open_page):
    rows = [DialogueRow(**{**vars(row), "id": row.id + 40 * copy}) for copy in range(38) for row in sample_rows()]
    tab = open_page(rows[:1500])
    assert len(shown(tab)) == ROWS_A_PAGE and "of 1500, page 1 of 75" in tab.inner_text("nav.pages >> nth=0")
    spent = tab.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert spent < 30_000  # a second where nothing else runs
    began = tab.evaluate("performance.now()")
    tab.select_option("#order", "win")
    assert tab.evaluate("performance.now()") - began < 10_000
