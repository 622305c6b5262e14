"""Bootstrap: intervals that hold the value, repeat with the seed, and come near the normal one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.metrics.stats import bootstrap, mean_interval, median_interval

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(VALUES, st.integers(1, 50), st.integers(0, 2**31))
def test_intervals_hold_their_value(values, resamples, seed):
    for statistic in (mean_interval, median_interval):
        value, low, high = statistic(values, resamples=resamples, seed=seed)
        assert low <= value <= high
        assert min(values) - 1e-6 <= low
        assert high <= max(values) + 1e-6


def test_one_item_has_no_width():
    assert mean_interval([0.25]) == (0.25, 0.25, 0.25)


def test_the_seed_repeats_and_another_differs():
    values = list(np.random.default_rng(0).normal(size=40))
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_the_mean_interval_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(size=400)
    half = 1.96 * values.std() / math.sqrt(len(values))
    value, low, high = mean_interval(list(values), resamples=4000)
    assert value - low == pytest.approx(half, rel=0.1)
    assert high - value == pytest.approx(half, rel=0.1)


def test_many_items_are_drawn_in_pieces():
    columns = np.ones((3000, 1))
    columns[0] = 2
    low, high = bootstrap(columns, lambda drawn: drawn[..., 0].mean(axis=1), resamples=1500)
    assert 1 <= low <= 1 + 1 / 3000 <= high <= 1 + 10 / 3000
