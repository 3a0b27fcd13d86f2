"""Marks for words: what differs, what the reference has, and what the source has nowhere."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hfplug.comparison.marks import Span, differing_words, shared_words, unsupported

DIALOGUE = """\
Tom: I paid 1,200 dollars on March 3rd, at half past seven.
Ann O'Neill: That's twenty-five more. See you in New York, at room B 12, or in L. A.
#Person1#: We came from America, mother and I."""
REAL_ROWS = Path(__file__).parents[3] / "shared" / "data" / "dialogsum.dev.jsonl"


def cut(text: str, spans: tuple[Span, ...]) -> list[str]:
    return [text[start:end] for start, end in spans]


def flagged(text: str, source: str = DIALOGUE) -> list[str]:
    return cut(text, unsupported(text, source))


# ------------------------------------------------------------------------------------------ differing words


def test_words_without_a_partner_in_order_are_marked_and_neighbours_are_one_mark():
    text = "Tom sells the old red kettle to Ann."
    assert cut(text, differing_words(text, "Tom sells the kettle to Bo.")) == ["old red", "Ann"]


def test_a_word_that_moved_is_marked_at_one_of_its_places():
    text = "today Ann calls Tom"
    assert cut(text, differing_words(text, "Ann calls Tom today")) == ["today"]


def test_case_apostrophes_and_punctuation_make_no_difference():
    assert differing_words("DON’T go, well‑known Tom!", "don't go well-known tom") == ()


@pytest.mark.parametrize(("text", "other"), [("", ""), ("", "a b"), ("...", "a")])
def test_what_has_no_words_has_no_marks(text, other):
    assert differing_words(text, other) == ()


def test_everything_is_marked_beside_an_empty_text():
    assert cut("Tom calls", differing_words("Tom calls", "")) == ["Tom calls"]


def test_scripts_without_spaces_are_compared_sign_by_sign():
    assert cut("我喜欢红茶", differing_words("我喜欢红茶", "我喜欢绿茶")) == ["红"]


def test_letters_outside_the_basic_plane_and_accents_keep_their_places():
    text = "😀 Zoë́ आम खाती है"
    assert cut(text, differing_words(text, "😀 Zoë́ केला खाती है")) == ["आम"]


@pytest.mark.parametrize("kind", ["moved", "repeated", "rewritten", "shuffled"])
def test_ten_thousand_words_take_well_under_two_seconds(kind):
    draw = random.Random(0)
    words = draw.choices(["the", "a", "to", *(f"w{number}" for number in range(4000))], k=10_000)
    other = {
        "moved": [*words[5000:], *words[:5000]],
        "repeated": ["the"] * 10_000,
        "rewritten": [word if draw.random() < 0.7 else "new" for word in words],
        "shuffled": draw.sample(words, len(words)),
    }[kind]
    text = " ".join(words)
    began = time.process_time()
    found = differing_words(text, " ".join(other))
    assert time.process_time() - began < 2
    assert found


def test_long_texts_are_aligned_as_short_ones_are():
    base = [f"w{number}" if number % 3 else "the" for number in range(9000)]
    changed = list(base)
    for at in (10, 4000, 8990):
        changed[at] = "CHANGED"
    text = " ".join(changed)
    assert cut(text, differing_words(text, " ".join(base))) == ["CHANGED"] * 3


# --------------------------------------------------------------------------------------------- shared words


def test_words_of_any_reference_are_marked_wherever_they_stand():
    text = "A kettle is sold by Tom quickly."
    assert cut(text, shared_words(text, ["Tom sells a kettle.", "The kettle is SOLD."])) == ["A kettle is sold", "Tom"]


def test_without_a_reference_nothing_is_shared():
    assert shared_words("Tom", []) == ()


# ------------------------------------------------------------------------------------------------ invention


@pytest.mark.parametrize(
    "text",
    [
        "Tom paid $1200.",
        "Tom paid 1.2k, that is 1'200 dollars.",
        "They met at 7:30 pm, at 19:30.",
        "It was 25 more.",
        "It was the third of March, 3/3.",
        "They go to New-York, to LA and to room B12 or B-12.",
        "O’Neill's house is near Tom’s.",
        "#Person1# and Person1 are one.",
        "He thanks the Americans, and Mother agrees.",
        "Mr. Tom is there at 7:00 a.m.",
        "The two talk; one of them is late.",
        "They said hello. Then Tom left. After that Ann came. Both of them agree.",
        "1. Tom pays.\n2. Ann asks.\n13. The end.",
        "BOTH PARTIES SIGN THE CONTRACT",
        "A Conversation About Paying Money",
        "",
    ],
)
def test_what_the_dialogue_supports_is_not_flagged(text):
    assert flagged(text) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Tom met Mary.", ["Mary"]),
        ("Mary was there, says Tom about Mary.", ["Mary", "Mary"]),
        ("Mary Smith came.", ["Mary Smith"]),
        ("Mary and Ann met.", ["Mary"]),
        ("Sarah asks Tom, and Peter's car broke.", ["Sarah", "Peter's"]),
        ("Peter's car broke.", ["Peter's"]),
        ("#Person2# and Tom", ["#Person2#"]),
        ("He pays 1,300 dollars.", ["1,300"]),
        ("They meet at 8:30, in thirteen days.", ["8:30", "thirteen"]),
        ("She needs two hundred and sixty, or three thousand and Ann.", ["two hundred and sixty", "three thousand"]),
        ("He is in room C12 of Hugging Face.", ["C12", "Hugging Face"]),
        ("Они видели Ивана", ["Ивана"]),
    ],
)
def test_names_and_numbers_that_the_dialogue_has_nowhere_are_flagged(text, names):
    assert flagged(text) == names


def test_a_capital_at_the_start_of_a_sentence_is_no_name_by_itself():
    assert flagged("Dinner was good. Everybody left. Nobody paid.", "Tom: The meal was fine.") == []


def test_words_with_a_capital_that_also_come_without_one_are_no_names():
    assert flagged("Dinner is late. Then Dinner came, and the dinner was cold.", "Tom: Food?") == ["Dinner"]


def test_the_spans_are_places_of_the_text():
    assert unsupported("Tom met Mary.", DIALOGUE) == (Span(8, 12),)


@pytest.mark.parametrize("piece", ["A.", "O'", "Tom-", "one ", ". ", "1,", "7", "#", "\n", "B1", "Tom and "])
def test_no_text_takes_long(piece):
    began = time.process_time()
    unsupported(piece * 20_000, piece * 20_000)
    differing_words(piece * 20_000, "x " + piece * 20_000)
    assert time.process_time() - began < 3


def test_few_human_summaries_of_real_dialogues_are_flagged():
    """The only false alarms that can be counted: people invent next to nothing, but they do misspell names."""
    if not REAL_ROWS.is_file():
        pytest.skip(f"no rows of DialogSum at {REAL_ROWS}")
    rows = [json.loads(line) for line in REAL_ROWS.read_text(encoding="utf-8").splitlines()]
    own = sum(bool(unsupported(row["summary"], row["dialogue"])) for row in rows)
    pairs = zip(rows, [*rows[1:], rows[0]], strict=True)
    strange = sum(bool(unsupported(row["summary"], other["dialogue"])) for row, other in pairs)
    assert own <= 0.02 * len(rows)
    assert strange >= 0.4 * len(rows)


def test_marks_need_nothing_but_the_standard_library():
    code = (
        "import sys, hfplug.comparison.marks\n"
        "print({'torch', 'numpy', 'transformers', 'gradio', 'rouge_score'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
