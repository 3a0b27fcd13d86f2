"""ROUGE by hand, several references in one row, and what cannot be scored."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest

from hfplug.comparison.rouge import METRICS, score_human, score_rows
from hfplug.errors import DataError


def _one(prediction: str, *references: str) -> dict[str, float]:
    scores = score_rows([prediction], [list(references)])
    return {metric: round(float(scores.mean[metric][0]), 6) for metric in METRICS}


def test_scores_are_those_computed_by_hand() -> None:
    # 6 words each: 5 shared, 3 of 5 word pairs shared, the longest common subsequence has 5 words.
    assert _one("the cat sat on the mat", "the cat lay on the mat") == {
        "rouge1": round(5 / 6, 6),
        "rouge2": 0.6,
        "rougeL": round(5 / 6, 6),
        "rougeLsum": round(5 / 6, 6),
    }


def test_f1_balances_precision_and_recall() -> None:
    # 2 of 2 words are right, 2 of 6 are found: 2 * 1 * (1/3) / (1 + 1/3).
    assert _one("red kettle", "Ana buys Bo's red kettle")["rouge1"] == pytest.approx(0.5, abs=1e-6)


def test_words_are_stemmed() -> None:
    assert _one("She was walking", "she walks was")["rouge1"] == 1.0


def test_rouge_lsum_compares_sentence_by_sentence() -> None:
    scores = _one("It rains. Tom sleeps.", "Tom sleeps. It rains.")
    assert (scores["rougeL"], scores["rougeLsum"]) == (0.5, 1.0)


def test_several_references_are_averaged_within_their_row() -> None:
    predictions = ["red kettle", "blue sofa"]
    references = [["red kettle", "a plane", "a boat"], ["blue sofa"]]
    scores = score_rows(predictions, references)
    assert len(scores) == 2
    np.testing.assert_allclose(scores.mean["rouge1"], [1 / 3, 1.0])
    np.testing.assert_allclose(scores.max["rouge1"], [1.0, 1.0])
    # Flattened into rows of their own, the four references would give (1 + 0 + 0 + 1) / 4.
    assert scores.mean["rouge1"].mean() == pytest.approx(2 / 3)


def test_an_empty_prediction_scores_zero() -> None:
    assert _one("", "the cat") == dict.fromkeys(METRICS, 0.0)
    assert _one(" \n", "the cat") == dict.fromkeys(METRICS, 0.0)


def test_blank_references_are_left_out() -> None:
    assert _one("the cat", "", "the cat", "  ")["rouge1"] == 1.0


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a", "b"], [["a"]], "1 rows were expected, 2 predictions came"),
        ("ab", [["a"], ["b"]], "one text came"),
        (["a", "b"], [["a"], ["", " "]], "Row 1 has no reference"),
        (["a"], ["a"], "a list of references was expected"),
        ([], [], "at least one row"),
        (["天気"], [["天気がいい"]], "ROUGE counts nothing else"),
    ],
)
def test_what_cannot_be_scored_is_refused(predictions, references, message) -> None:
    with pytest.raises(DataError, match=message):
        score_rows(predictions, references)


def test_an_unknown_metric_is_refused_with_a_hint() -> None:
    with pytest.raises(DataError, match="Did you mean 'rougeLsum'"):
        score_rows(["a"], [["a"]], metrics=["rougeLSum"])


def test_humans_are_scored_against_each_other_where_there_are_two() -> None:
    references = [["red kettle", "red kettle", "a plane"], ["alone"], ["blue sofa", "blue chair"]]
    scores = score_human(references)
    assert scores is not None
    assert scores.rows.tolist() == [0, 2]
    # Row 0: (1 + 0)/2, (1 + 0)/2 and 0 against the two others; row 2: one of two words both ways.
    np.testing.assert_allclose(scores.mean["rouge1"], [1 / 3, 0.5])
    np.testing.assert_allclose(scores.max["rouge1"], [2 / 3, 0.5])


def test_without_a_second_reference_there_is_no_human_score() -> None:
    assert score_human([["alone"], ["alone", " "]]) is None


def test_scoring_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        score_rows(["a"], [["a"]])
    assert caplog.records == []
    code = "import logging; logging.basicConfig(level=0)\nimport hfplug.comparison.rouge as r\n"
    code += "r.score_rows(['a'], [['a']])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
