"""How sure a mean over rows is, and whether two variants differ on the same rows.

Rows are the unit that is drawn: another set of dialogues from the same source would give another mean.
Training again with another seed is a second source of spread which these intervals do not hold.

Intervals are percentile bootstrap intervals (Efron and Tibshirani 1993, chapter 13); the test is a paired
permutation test, which flips the sign of each row's difference at random (Noreen 1989). Both come from
``scipy.stats``. P-values are two-sided and not corrected for the number of comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hfplug.errors import DataError

# Rows x resamples drawn at once; a few MB: faster than all at once, with the same numbers.
_CELLS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Interval:
    """A mean over rows and the interval around it, in the unit of the values."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """The mean of ``a - b`` over rows, its interval, and how likely so large a one is by chance (0 to 1)."""

    difference: float
    low: float
    high: float
    p_value: float


def interval(values: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of some rows with its bootstrap interval.

    Args:
        values: Shape ``(rows,)``, finite.
        confidence: Share of the interval, between 0 and 1.
        resamples: How many sets of rows are drawn.
        seed: The same seed and values give the same interval.

    Returns:
        The mean and its interval. One row, or rows that are all equal, give an interval of no width: it
        says that nothing is known about the spread, not that there is none.

    Raises:
        DataError: There is no row, or a value is not finite.
    """
    rows = _rows(values)
    mean = float(rows.mean())
    if np.ptp(rows) == 0:
        return Interval(float(rows[0]), float(rows[0]), float(rows[0]))
    found = stats.bootstrap(
        (rows,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        # Percentile and not BCa: BCa is undefined (nan) when the statistic does not move with a row.
        method="percentile",
        vectorized=True,
        batch=max(1, _CELLS_AT_ONCE // len(rows)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def paired_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    permutations: int = 4999,
    seed: int = 0,
) -> PairedTest:
    """Whether ``a`` differs from ``b`` on the same rows.

    Args:
        a: Shape ``(rows,)``, finite.
        b: Shape ``(rows,)``, finite; row i belongs to row i of ``a``.
        confidence: Share of the interval of the difference, between 0 and 1.
        resamples: How many sets of rows are drawn for the interval.
        permutations: How many sign flips are drawn for the p-value; if there are no more than that at all
            (12 rows or fewer), all of them are taken and the p-value is exact.
        seed: The same seed and values give the same answer.

    Returns:
        The mean of ``a - b``, its interval and the two-sided p-value. Equal rows give 1; so does a single
        row, of which nothing can be said. The smallest possible is ``2 / (permutations + 1)``.

    Raises:
        DataError: The lengths differ, there is no row, or a value is not finite.
    """
    first, second = _rows(a), _rows(b)
    if len(first) != len(second):
        raise DataError(
            f"A paired test needs the same rows twice: {len(first)} and {len(second)} came.",
            fix="Score both variants on the same rows.",
        )
    difference = first - second
    around = interval(difference, confidence=confidence, resamples=resamples, seed=seed)
    p_value = 1.0
    if len(difference) > 1 and np.any(difference):
        found = stats.permutation_test(
            (difference,),
            np.mean,
            permutation_type="samples",  # with one sample: the sign of each row is flipped or not
            n_resamples=permutations,
            alternative="two-sided",
            vectorized=True,
            batch=max(1, _CELLS_AT_ONCE // len(difference)),
            rng=np.random.default_rng(seed),
        )
        p_value = min(1.0, float(found.pvalue))
    return PairedTest(around.value, around.low, around.high, p_value)


def _rows(values: ArrayLike) -> NDArray[np.float64]:
    """The values as one row of finite numbers."""
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 1 or not len(rows) or not np.all(np.isfinite(rows)):
        raise DataError(f"One finite number for each row was expected, an array of shape {rows.shape} came.")
    return rows
