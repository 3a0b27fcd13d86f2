"""ROUGE for rows that may each have several references.

A dialogue with three human summaries is *one* row. Its score is the mean of the scores against each
reference, and, beside it, the best of them; rows are averaged after that. Flattening the references into
rows of their own weighs rows by how many references they have, and gives an interval that is too narrow,
because the three are not independent. Scores are F1 by Google's ``rouge_score`` with the Porter stemmer
(Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries").

``rouge_score`` looks only at the letters a-z and the digits: text in another script scores 0, so it is
refused here rather than scored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rouge_score import rouge_scorer, tokenizers

from hfplug.comparison.sentences import split_sentences
from hfplug.errors import DataError, did_you_mean

METRICS: tuple[str, ...] = ("rouge1", "rouge2", "rougeL", "rougeLsum")
METRIC_LABELS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}


@dataclass(frozen=True, kw_only=True, eq=False)
class RowScores:
    """One variant's scores, a number for each scored row.

    Attributes:
        mean: For each metric, shape ``(rows,)``, 0 to 1: the mean over the row's references.
        max: For each metric, shape ``(rows,)``, 0 to 1: the best over the row's references.
        rows: Shape ``(rows,)``: which rows of the data these are. All of them for a variant; only those
            with two references or more for :func:`score_human`.
    """

    mean: dict[str, NDArray[np.float64]]
    max: dict[str, NDArray[np.float64]]
    rows: NDArray[np.int64]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, in the order in which they were asked for."""
        return tuple(self.mean)

    def __len__(self) -> int:
        """How many rows were scored."""
        return len(self.rows)


def score_rows(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = METRICS,
) -> RowScores:
    """Score one prediction a row against all references of that row.

    Args:
        predictions: One text a row; an empty one scores 0.
        references: For each row one reference or more. Blank references are left out.
        metrics: Any of :data:`METRICS`, or ``rougeN`` for another N from 1 to 9.

    Returns:
        The scores of every row.

    Raises:
        DataError: The lengths differ, there are no rows, a row has no reference, a single text was given
            where a list is needed, or no reference holds a word that ROUGE can count.
    """
    if isinstance(predictions, str) or len(predictions) != len(references):
        came = "one text" if isinstance(predictions, str) else f"{len(predictions)} predictions"
        raise DataError(
            f"Scoring needs one prediction for each row: {len(references)} rows were expected, {came} came.",
            fix="Pass predictions and references of the same length, in the same order.",
        )
    kept = _checked_references(references)
    score = _scorer(tuple(metrics))
    pairs = zip(predictions, kept, strict=True)
    per_row = [[score(reference, text) for reference in row] for text, row in pairs]
    return _collect(per_row, metrics, range(len(kept)))


def score_human(
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = METRICS,
) -> RowScores | None:
    """One human against another: what agreement between people looks like on these rows.

    Leave one out: each reference of a row is scored as if it were the prediction, against the row's other
    references; the row's ``mean`` is the mean of that over all its references, its ``max`` the mean of the
    best match of each. With n references the best is over n - 1, for a variant over n: compare ``mean``.

    Args:
        references: For each row one reference or more.
        metrics: As in :func:`score_rows`.

    Returns:
        Scores of the rows with two references or more, or None if there is no such row.

    Raises:
        DataError: There are no rows, or a row has no reference.
    """
    kept = _checked_references(references)
    rows = [index for index, row in enumerate(kept) if len(row) > 1]
    if not rows:
        return None
    left_out = [(index, held) for index in rows for held in range(len(kept[index]))]
    scores = score_rows(
        [kept[index][held] for index, held in left_out],
        [[text for other, text in enumerate(kept[index]) if other != held] for index, held in left_out],
        metrics,
    )
    owner = np.array([index for index, _ in left_out])

    def by_row(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([values[owner == index].mean() for index in rows])

    return RowScores(
        mean={metric: by_row(scores.mean[metric]) for metric in metrics},
        max={metric: by_row(scores.max[metric]) for metric in metrics},
        rows=np.array(rows, dtype=np.int64),
    )


class _CachedTokenizer(tokenizers.Tokenizer):
    """``rouge_score``'s own tokenizer, remembering texts: each reference is met once for every variant.

    Given explicitly also because RougeScorer writes a log line when it has to choose one itself.
    """

    def __init__(self) -> None:
        plain = tokenizers.DefaultTokenizer(use_stemmer=True)
        self._words = functools.lru_cache(maxsize=65536)(plain.tokenize)

    def tokenize(self, text: str) -> list[str]:
        return self._words(text)


@functools.lru_cache(maxsize=1)
def _tokenizer() -> _CachedTokenizer:
    return _CachedTokenizer()


def _scorer(metrics: tuple[str, ...]) -> Callable[[str, str], dict[str, float]]:
    """A function ``(reference, prediction) -> {metric: F1}``."""
    for metric in metrics:
        if metric not in METRICS and not (metric[:5] == "rouge" and metric[5:] in set("123456789")):
            raise DataError(
                f"Metric {metric!r} is unknown; known are {', '.join(METRICS)}.",
                fix=did_you_mean(metric, METRICS) or None,
            )
    scorer = rouge_scorer.RougeScorer(list(metrics), tokenizer=_tokenizer())

    def score(reference: str, prediction: str) -> dict[str, float]:
        # One sentence a line is what ROUGE-Lsum reads; to the other metrics a line break is a space.
        found = scorer.score("\n".join(split_sentences(reference)), "\n".join(split_sentences(prediction)))
        return {metric: float(found[metric].fmeasure) for metric in metrics}

    return score


def _checked_references(references: Sequence[Sequence[str]]) -> list[list[str]]:
    """The references without blanks; refuses what cannot be scored."""
    if not references:
        raise DataError("Scoring needs at least one row, none came.", fix="Check the evaluation split.")
    kept = []
    for number, row in enumerate(references):
        if isinstance(row, str):
            raise DataError(
                f"Row {number}: a list of references was expected, one text came.",
                fix="Pass [[text], …] where each row has one reference.",
            )
        kept.append([text for text in row if text and text.strip()])
        if not kept[-1]:
            raise DataError(
                f"Row {number} has no reference to score against.",
                fix="Drop the row, or fill its target column.",
            )
    if not any(_tokenizer().tokenize(text) for row in kept for text in row):
        raise DataError(
            "No reference holds a word in the letters a-z or a digit, and ROUGE counts nothing else: "
            "every score would be 0.",
            fix="Use references in a language written in Latin letters.",
        )
    return kept


def _collect(per_row: Sequence[Sequence[dict[str, float]]], metrics: Sequence[str], rows: Sequence[int]) -> RowScores:
    """Reduce the references of each row to their mean and their best."""
    return RowScores(
        mean={m: np.array([np.mean([one[m] for one in row]) for row in per_row]) for m in metrics},
        max={m: np.array([max(one[m] for one in row) for row in per_row]) for m in metrics},
        rows=np.array(rows, dtype=np.int64),
    )
