"""Confidence intervals have the claimed coverage, widen with few rows, and vanish if rows do not differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.exam.intervals import estimate, quantile, rows_needed

seeds = st.integers(0, 2**31)


def clustered(rng: np.random.Generator, rows: int, skewed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows of unequal length with correlated tokens: mean 1 if skewed (like KL), otherwise 0."""
    row = np.repeat(np.arange(rows), rng.integers(5, 60, rows))
    if skewed:
        return rng.gamma(2, 1 / 2, rows)[row] * rng.gamma(0.5, 2, len(row)), row
    return rng.normal(0, 1, rows)[row] + rng.normal(0, 1, len(row)), row


@pytest.mark.parametrize(("rows", "skewed", "least"), [(6, False, 0.92), (10, False, 0.92), (40, False, 0.92),
                                                       (10, True, 0.87), (40, True, 0.9)])  # fmt: skip
def test_interval_has_its_nominal_coverage(rows: int, skewed: bool, least: float) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        made = estimate(*clustered(rng, rows, skewed))
        assert made is not None and made.interval is not None
        hits += made.interval[0] <= float(skewed) <= made.interval[1]
    assert least <= hits / 500 <= 0.985


def test_tokens_of_one_row_are_not_counted_as_independent() -> None:
    """Repeating tokens adds no information; an interval over tokens would shrink with the length of the row."""
    rng = np.random.default_rng(1)
    values, row = rng.normal(0, 1, 8), np.arange(8)
    short, long = estimate(values, row), estimate(np.repeat(values, 100), np.repeat(row, 100))
    assert short is not None and long is not None and short.interval is not None
    assert long.interval == pytest.approx(short.interval)


@given(seeds, st.integers(2, 30))
@settings(max_examples=60)
def test_rows_of_equal_length_give_the_t_interval_of_row_means(seed: int, rows: int) -> None:
    values = np.random.default_rng(seed).normal(3, 2, (rows, 7))
    made = estimate(values.ravel(), np.repeat(np.arange(rows), 7))
    means = values.mean(1)
    half = quantile(rows - 1) * means.std(ddof=1) / math.sqrt(rows)
    assert made is not None
    assert made.interval == pytest.approx((means.mean() - half, means.mean() + half))


@given(seeds)
@settings(max_examples=30)
def test_interval_does_not_depend_on_row_order_or_names(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, row = clustered(rng, 7, skewed=True)
    order = rng.permutation(len(row))
    one, other = estimate(values, row), estimate(values[order], row[order] * 3 + 5)
    assert one is not None and other is not None and one.interval is not None
    assert other.interval == pytest.approx(one.interval)


@given(st.integers(2, 20), st.floats(-5, 5))
def test_identical_rows_have_a_zero_width_interval(rows: int, value: float) -> None:
    made = estimate(np.full(rows * 3, value), np.repeat(np.arange(rows), 3))
    assert made is not None and made.interval is not None
    assert made.interval == pytest.approx((value, value), abs=1e-9)


def test_one_row_has_no_interval_and_no_rows_have_no_estimate() -> None:
    one = estimate(np.array([1.0, 2.0]), np.array([4, 4]))
    assert one is not None and (one.value, one.interval, one.rows) == (1.5, None, 1)
    assert estimate(np.array([]), np.array([])) is None


def test_ratio_with_zero_denominator_has_no_interval() -> None:
    made = estimate(np.array([1.0, 1.0]), np.array([0, 1]), bottom=np.array([2.0, 0.0]))
    assert made is not None and made.interval is None


def test_interval_is_clipped_to_the_range_of_the_figure() -> None:
    made = estimate(np.array([1, 1, 1, 0]), np.arange(4), least=0.0, most=1.0)
    assert made is not None and made.interval is not None and made.interval[1] == 1.0


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216),
                                            (30, 2.04227), (1000, 1.96234)])  # fmt: skip
def test_students_t_matches_published_tables(freedom: int, t: float) -> None:
    assert quantile(freedom) == pytest.approx(t, rel=2e-3)


def test_estimated_number_of_rows_gives_a_verdict() -> None:
    """The estimated number of similar rows moves the interval just off the limit."""
    rng = np.random.default_rng(2)
    few = rng.normal(0.8, 0.6, 12)
    made = estimate(few, np.arange(12))
    assert made is not None and made.interval is not None
    needed = int(rows_needed(made.value, made.interval, 12, limit=1.0))
    many = np.resize(few, needed)
    again = estimate(many, np.arange(needed))
    assert again is not None and again.interval is not None
    assert needed > 12 and again.interval[1] == pytest.approx(1.0, abs=0.06)
    assert rows_needed(1.0, (0.5, 1.5), 5, limit=1.0) == math.inf
