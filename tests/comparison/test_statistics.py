"""Intervals cover what they should, tests find what is there and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from hfplug.comparison.statistics import Interval, PairedTest, interval, paired_test
from hfplug.errors import DataError


@pytest.fixture(autouse=True)
def _no_warning_leaks() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(7)
    found = [interval(draws.beta(2, 3, size=60), resamples=500, seed=n) for n in range(200)]
    covered = np.mean([one.low <= 0.4 <= one.high for one in found])
    assert 0.89 <= covered <= 0.99


def test_the_interval_holds_the_mean_and_narrows_with_more_rows() -> None:
    draws = np.random.default_rng(1).random(4000)
    few, many = interval(draws[:40]), interval(draws)
    assert few.value == draws[:40].mean()
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 5


def test_the_same_seed_gives_the_same_numbers() -> None:
    rows = np.random.default_rng(2).random(50)
    assert interval(rows, seed=3) == interval(rows, seed=3) != interval(rows, seed=4)
    assert paired_test(rows, rows[::-1], seed=3) == paired_test(rows, rows[::-1], seed=3)


@pytest.mark.parametrize("rows", [[0.3], [0.3] * 25, [0.0] * 4])
def test_rows_without_spread_give_an_interval_without_width(rows: list[float]) -> None:
    assert interval(rows) == Interval(rows[0], rows[0], rows[0])


def test_equal_rows_give_a_p_value_of_one() -> None:
    rows = np.random.default_rng(3).random(30)
    assert paired_test(rows, rows.copy()) == PairedTest(0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_gives_a_small_p_value_and_an_interval_away_from_zero() -> None:
    draws = np.random.default_rng(4)
    base = draws.random(80)
    found = paired_test(base + 0.1 + 0.05 * draws.standard_normal(80), base)
    assert found.p_value < 0.001
    assert 0.05 < found.low < found.difference < found.high < 0.15


def test_pairing_finds_what_two_separate_intervals_do_not() -> None:
    draws = np.random.default_rng(5)
    base = draws.random(100)
    better = base + 0.02 + 0.01 * draws.standard_normal(100)
    assert interval(better).low < interval(base).high
    assert paired_test(better, base).p_value < 0.001


def test_a_swap_turns_the_sign_and_keeps_the_p_value() -> None:
    draws = np.random.default_rng(6)
    a, b = draws.random(10), draws.random(10)
    one, other = paired_test(a, b), paired_test(b, a)
    assert one.difference == -other.difference
    assert one.p_value == pytest.approx(other.p_value)


def test_few_rows_give_the_exact_p_value() -> None:
    # Of the 2^5 ways to flip the signs of five equal differences, two are as extreme as this one.
    assert paired_test([0.5] * 5, [0.25] * 5).p_value == pytest.approx(2 / 32)


def test_one_row_says_nothing() -> None:
    assert paired_test([0.9], [0.1]).p_value == 1.0


def test_by_chance_alone_small_p_values_are_rare() -> None:
    draws = np.random.default_rng(8)
    found = [
        paired_test(draws.random(30), draws.random(30), permutations=299, resamples=20, seed=n).p_value
        for n in range(150)
    ]
    assert np.mean(np.array(found) < 0.05) < 0.1


@pytest.mark.parametrize("rows", [[], [float("nan"), 1.0], [[0.1], [0.2]]])
def test_rows_must_be_finite_numbers(rows) -> None:
    with pytest.raises(DataError, match="One finite number for each row"):
        interval(rows)


def test_a_paired_test_needs_pairs() -> None:
    with pytest.raises(DataError, match="same rows twice: 3 and 2"):
        paired_test([0.1, 0.2, 0.3], [0.1, 0.2])
