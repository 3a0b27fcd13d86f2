"""Copying the first turns."""

from __future__ import annotations

import pytest

from hfplug.comparison.baselines import first_turns


def test_the_first_three_turns_are_copied() -> None:
    assert first_turns("A: one\n\n  B: two \r\nA: three\nB: four") == "A: one\nB: two\nA: three"


def test_a_dialogue_on_one_line_gives_its_first_sentences() -> None:
    assert first_turns("One. Two? Three! Four.") == "One.\nTwo?\nThree!"


def test_a_short_or_blank_dialogue_is_copied_whole() -> None:
    assert first_turns("A: one\nB: two", turns=5) == "A: one\nB: two"
    assert first_turns(" \n") == ""


def test_the_number_of_turns_is_one_or_more() -> None:
    assert first_turns("A: one\nB: two", turns=1) == "A: one"
    with pytest.raises(ValueError, match="1 or more"):
        first_turns("A: one", turns=0)
