"""Bootstrap: intervals that hold the value, repeat with the seed, come near the normal one, and draw whole subjects."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.special  # noqa: F401 (loaded here, or the first example of a property pays for it)
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fakes import fake_judges, row

from relearn.core import config
from relearn.metrics.context import Context
from relearn.metrics.intervals import (
    ONE_SUBJECT,
    bootstrap,
    group,
    mean,
    mean_interval,
    median,
    median_interval,
    value_of,
    weighted_median,
)
from relearn.metrics.score import score

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)
LABELS = st.sampled_from([None, "a", "b", "c"])
LABELLED = st.lists(st.tuples(st.floats(-1e3, 1e3), LABELS), min_size=1, max_size=20)


@settings(deadline=None)
@given(VALUES, st.integers(1, 50), st.integers(0, 2**31))
def test_intervals_hold_their_value(values, resamples, seed):
    for statistic in (mean_interval, median_interval):
        value, low, high = statistic(values, resamples=resamples, seed=seed)
        assert low <= value <= high
        assert min(values) - 1e-6 <= low
        assert high <= max(values) + 1e-6


@settings(deadline=None)
@given(LABELLED, st.integers(0, 2**31))
def test_clustered_intervals_hold_their_value(rows, seed):
    values, labels = [value for value, _ in rows], [label for _, label in rows]
    for statistic in (mean_interval, median_interval):
        value, low, high = statistic(values, clusters=labels, resamples=40, seed=seed)
        assert low <= value <= high
        assert value == statistic(values)[0]


@settings(deadline=None)
@given(VALUES)
def test_clusters_of_one_item_each_are_the_item_bootstrap(values):
    names = [f"person {at}" for at in range(len(values))]
    for labels in (names, [None] * len(values)):
        for statistic in (mean_interval, median_interval):
            assert statistic(values, clusters=labels, resamples=50) == statistic(values, resamples=50)


@settings(deadline=None)
@given(LABELLED, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_no_measurement(rows, random):
    answers = [row("x", id=f"id {at}", subject=label) for at, (_, label) in enumerate(rows)]
    values = {answer.id: value for answer, (value, _) in zip(answers, rows, strict=True)}
    shuffled = random.sample(answers, len(answers))
    shared = {"split": "forget", "settings": config.Metrics(bootstrap=30), "judges": fake_judges()}
    first, second = (
        Context(order, **shared).mean([values[answer.id] for answer in order]) for order in (answers, shuffled)
    )
    assert (first.value, first.low, first.high, first.clusters) == (
        second.value,
        second.low,
        second.high,
        second.clusters,
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 4)), min_size=1).filter(lambda d: any(n for _, n in d)))
def test_the_weighted_median_is_the_median_of_the_items_repeated(drawn):
    values = np.array([value for value, _ in drawn])
    counts = np.array([count for _, count in drawn])
    found = weighted_median(values, counts[None].astype(float))[0]
    assert found == pytest.approx(np.median(np.repeat(values, counts)))


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


def test_the_interval_of_twelve_clusters_is_as_wide_as_students_t():
    """Twelve subjects with four equal answers each: t with 11 degrees of freedom on the twelve values, by hand."""
    subjects = np.random.default_rng(1).normal(size=12)
    _, low, high = mean_interval(np.repeat(subjects, 4).tolist(), clusters=np.repeat(np.arange(12), 4), resamples=20000)
    half = 2.201 * subjects.std(ddof=1) / math.sqrt(12)
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)


def test_many_items_are_drawn_in_pieces():
    columns = np.ones((3000, 1))
    columns[0] = 2
    low, high = bootstrap(columns, mean, resamples=1500)
    assert 1 <= low <= 1 + 1 / 3000 <= high <= 1 + 10 / 3000


def test_a_resample_takes_all_rows_of_a_subject():
    drawn = []

    def remember(columns, weights):
        drawn.append(weights)
        return weights @ columns[:, 0]

    bootstrap(np.arange(5.0)[:, None], remember, clusters=["a", "b", "a", None, None], resamples=200)
    weights = drawn[0]
    assert weights.shape == (200, 5)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 3] != weights[:, 4]).any()
    assert (weights[:, [0, 1, 3, 4]].sum(axis=1) == 4).all()


def test_clusters_are_counted_and_one_alone_falls_back_to_items():
    assert group(["x", None, "x", None, "y"], 5).count == 4
    assert group(["x", None, "x", None, "y"], 5).codes.tolist() == [0, 1, 0, 2, 3]
    alone = group(["x"] * 3, 3)
    assert (alone.count, alone.note) == (3, ONE_SUBJECT)
    assert mean_interval([0, 1, 1], clusters=["x"] * 3) == mean_interval([0, 1, 1])
    assert group(["x"], 1).note == ""
    with pytest.raises(ValueError, match="2 cluster labels for 3"):
        group(["x", "y"], 3)


@pytest.mark.parametrize(("subjects", "answers", "lowest"), [(30, 8, 0.91), (6, 10, 0.89)])
def test_coverage_on_answers_that_hang_together(subjects, answers, lowest):
    """Of 300 drawn data sets the interval has to hold the true mean, 0, in 95 %; standard error of that 1.3 %."""
    rng = np.random.default_rng(7)
    labels = np.repeat(np.arange(subjects), answers)
    naive, clustered = [], []
    for seed in range(300):
        values = rng.normal(size=subjects)[labels] + 0.5 * rng.normal(size=len(labels))
        for found, clusters in ((naive, None), (clustered, labels)):
            _, low, high = mean_interval(values, clusters=clusters, resamples=400, seed=seed)
            found.append(low <= 0 <= high)
    assert np.mean(naive) < 0.65
    assert lowest < np.mean(clustered) <= 0.99


def test_five_thousand_rows_take_under_a_second():
    values = np.random.default_rng(0).random(5000)
    labels = np.arange(5000) // 20
    times = []
    for _ in range(3):
        start = time.process_time()
        mean_interval(values, clusters=labels)
        times.append(time.process_time() - start)
    assert min(times) < 1


def test_every_metric_of_a_part_draws_its_subjects():
    rows = [
        row("Oslo Rome" if at % 3 else "Paris", id=str(at), subject=f"s{at // 5}", response_logprobs=(-1.0, -0.1 * at))
        for at in range(20)
    ]
    names = ["rouge_l", "ls", "ls_median", "ls_paper", "ppl", "bi"]
    measured = score(rows, "forget", config.Metrics(bootstrap=50), judges=fake_judges(), names=names).measurements
    assert {name: found.clusters for name, found in measured.items()} == dict.fromkeys(names, 4)
    assert measured["ls"].to_dict()["clusters"] == 4


def test_the_value_of_a_statistic_is_numpys():
    values = np.array([[3.0], [1.0], [2.0], [10.0]])
    assert value_of(values, mean) == 4.0
    assert value_of(values, median) == 2.5


def test_a_measurement_says_how_many_items_it_leaves_out_and_why():
    rows = [row("a", id="1"), row("b", id="2", response_logprobs=(-1.0,))]
    measured = score(
        rows, "forget", config.Metrics(bootstrap=20), judges=fake_judges(), names=["ls", "bi"]
    ).measurements
    assert measured["ls"].to_dict()["missing"] == "1 of 2 unscored: no log-probabilities of the response"
    assert "missing" not in measured["bi"].to_dict()
    context = Context(rows, split="forget", settings=config.Metrics(bootstrap=20), judges=fake_judges())
    assert context.mean([None, 1.0]).missing == "1 of 2 unscored: could not be measured"
