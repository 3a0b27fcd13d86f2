"""Where a sentence ends, and where a full stop is part of a word."""

from __future__ import annotations

import time

import pytest

from hfplug.comparison.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Ana called. Bo came!", ["Ana called.", "Bo came!"]),
        ("Really?! Yes.", ["Really?!", "Yes."]),
        ("Mr. Li met Dr. Ng. They left.", ["Mr. Li met Dr. Ng.", "They left."]),
        ("Come at 5 p.m. on Monday.", ["Come at 5 p.m. on Monday."]),
        ("Come at 5 p.m. Then eat.", ["Come at 5 p.m.", "Then eat."]),
        ("It costs 3.50 dollars. Fine.", ["It costs 3.50 dollars.", "Fine."]),
        ('He said "Go!" Then he left.', ['He said "Go!"', "Then he left."]),
        ("Well... maybe. J. Doe knows.", ["Well... maybe.", "J. Doe knows."]),
        ("#Person1# asks. #Person2# answers.", ["#Person1# asks.", "#Person2# answers."]),
        ("all lower case. second one.", ["all lower case.", "second one."]),
        ("one line\n\nanother line", ["one line", "another line"]),
        ("你好。再见！", ["你好。", "再见！"]),
        ("  \n ", []),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_a_very_long_run_of_marks_takes_no_time() -> None:
    started = time.perf_counter()
    split_sentences("!" * 100_000 + "x" * 100_000 + "! " * 20_000)
    assert time.perf_counter() - started < 2
