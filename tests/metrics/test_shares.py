"""Intervals of shares: worked by hand, their properties, and their coverage on facts about few subjects."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special  # noqa: F401 (loaded here, or the first example of a property pays for it)
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fakes import fake_judges, row

from relearn.core import config
from relearn.metrics.intervals import (
    ONE_SUBJECT,
    binomial_interval,
    effective_items,
    group,
    mean_interval,
    share_interval,
)
from relearn.metrics.metric import METRICS, metric
from relearn.metrics.score import score

HITS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abcdef")), min_size=1, max_size=25)


def test_64_of_64_leave_a_few_percent_open():
    """Of independent questions with rate p, all 64 are hits in p^64 of the cases: .025 at p = .944."""
    value, low, high = binomial_interval([1.0] * 64)
    assert (value, high) == (1.0, 1.0)
    assert low == pytest.approx(0.025 ** (1 / 64)) == pytest.approx(0.94399, abs=1e-5)


def test_one_item_says_next_to_nothing():
    assert binomial_interval([1.0]) == (1.0, pytest.approx(0.025), 1.0)
    assert binomial_interval([0.0]) == (0.0, 0.0, pytest.approx(0.975))


def test_all_right_of_eight_subjects_count_as_items_with_correlation_point_six():
    """8 subjects of 4: 32 / (1 + 3 * .6) = 11.43 items; .025 ^ (1 / 11.43) = .7241."""
    labels = np.repeat(np.arange(8), 4).tolist()
    assert effective_items(np.ones(32), group(labels, 32)) == pytest.approx(32 / 2.8)
    assert binomial_interval([1.0] * 32, clusters=labels)[1] == pytest.approx(0.7241, abs=1e-4)


def test_the_correlation_worked_by_hand():
    """Two subjects of two: both facts of a, one of b. p = 3/4, p (1 - p) = 3/16.

    Deviations from p by subject: a 1/4 + 1/4 = 1/2, b 1/4 - 3/4 = -1/2. Their squares times 2 / (2 - 1): 1/2 + 1/2 = 1.
    Less the squares of the facts, 3 (1/16) + 9/16 = 3/4: 1/4 over 4 ordered pairs: 1/16. Over 3/16 that is 1/3. Weights
    2 * 3/16 = 3/8 and 1/4: (3/8 * 1/3 + 1/4 * .6) / (5/8) = .44. Items: 4 / (1 + .44) = 2.78.
    """
    grouped = group(["a", "a", "b", "b"], 4)
    assert effective_items(np.array([1.0, 1.0, 1.0, 0.0]), grouped) == pytest.approx(4 / 1.44)


def test_single_facts_are_clopper_and_pearsons():
    """9 of 10: [.5550, .9975], as in every table."""
    assert binomial_interval([1.0] * 9 + [0.0]) == (
        0.9,
        pytest.approx(0.5550, abs=1e-4),
        pytest.approx(0.9975, abs=1e-4),
    )


@settings(deadline=None, max_examples=40)
@given(HITS)
def test_the_interval_holds_the_share_lies_in_0_1_and_is_symmetric(items):
    values, labels = [float(hit) for hit, _ in items], [label for _, label in items]
    value, low, high = binomial_interval(values, clusters=labels)
    assert 0 <= low <= value <= high <= 1
    assert low < high
    turned = binomial_interval([1 - hit for hit in values], clusters=labels)
    assert turned == (pytest.approx(1 - value), pytest.approx(1 - high), pytest.approx(1 - low))


@settings(deadline=None, max_examples=40)
@given(HITS.filter(lambda items: len({label for _, label in items}) > 1), st.integers(2, 4))
def test_more_subjects_of_the_same_kind_make_it_narrower(items, times):
    values, labels = [float(hit) for hit, _ in items], [label for _, label in items]
    _, low, high = binomial_interval(values, clusters=labels)
    more = [f"{label} {copy}" for copy in range(times) for label in labels]
    _, lowest, highest = binomial_interval(values * times, clusters=more)
    assert highest - lowest < high - low


@settings(deadline=None, max_examples=40)
@given(HITS, st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_nothing(items, random):
    shuffled = random.sample(items, len(items))
    first, second = (
        binomial_interval([float(hit) for hit, _ in own], clusters=[label for _, label in own])
        for own in (items, shuffled)
    )
    assert first == pytest.approx(second)


@pytest.mark.parametrize("subjects", [8, 12])
@pytest.mark.parametrize(("rate", "correlation"), [(0.5, 0.9), (0.8, 0.7), (0.9, 0.0), (0.95, 0.5), (0.99, 0.9)])
def test_coverage_on_two_to_six_facts_about_few_subjects(subjects, rate, correlation):
    """Of 400 data sets 95 % in mean; the standard error is 1.1 %, so a cell at .95 falls below .92 in 1 of 300 runs."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(400):
        labels = np.repeat(np.arange(subjects), rng.integers(2, 7, size=subjects))
        total = 1 / correlation - 1 if correlation else 1e9
        shares = rng.beta(rate * total, (1 - rate) * total, size=subjects)
        values = (rng.random(len(labels)) < shares[labels]).astype(float).tolist()
        _, low, high = binomial_interval(values, clusters=labels.tolist())
        found.append(low <= rate <= high)
    assert np.mean(found) >= 0.92


def test_other_values_keep_the_bootstrap_unless_they_are_all_equal():
    values, labels = [0.0, 0.5, 1.0, 1.0], ["a", "a", "b", None]
    assert share_interval(values, clusters=labels, seed=2) == mean_interval(values, clusters=labels, seed=2)
    labels = ["a", "b", "b"]
    assert share_interval([0.0, 1.0, 1.0], clusters=labels) == binomial_interval([0, 1, 1], clusters=labels)
    assert share_interval([0.5] * 3, clusters=labels) == binomial_interval([0.5] * 3, clusters=labels)


def test_grades_that_are_all_the_best_get_the_interval_of_a_share():
    """From 1 to 5: 1 + 4 * .025 ^ (1 / 8)."""
    value, low, high = share_interval([5.0] * 8, bounds=(1.0, 5.0))
    assert (value, low, high) == (5.0, pytest.approx(1 + 4 * 0.025 ** (1 / 8)), 5.0)


def asked(subject: str | None = None, count: int = 6) -> list:
    return [row("Oslo", id=str(at), subject=subject) for at in range(count)]


def gibberish_of(rows, **settings_of):
    shared = {"judges": fake_judges(), "names": ["gibberish"]}
    return score(rows, "forget", config.Metrics(bootstrap=20, **settings_of), **shared).measurements["gibberish"]


def test_without_subjects_every_question_counts_and_with_one_alone_the_note_says_so():
    apart, alone = gibberish_of(asked()), gibberish_of(asked("Ada"))
    assert (apart.low, apart.high, apart.clusters) == (0.0, pytest.approx(1 - 0.025 ** (1 / 6)), 6)
    assert (alone.low, alone.high, alone.clusters) == (apart.low, apart.high, 6)
    assert ONE_SUBJECT in alone.note and ONE_SUBJECT not in apart.note


def test_repeats_of_decisions_are_a_share_too():
    """Three answers to each of four questions, one of the twelve gibberish: the share of 1/12 of four questions."""
    rows = [
        row("" if (at, repeat) == (0, 1) else "Oslo", id=str(at), repeat=repeat)
        for at in range(4)
        for repeat in range(3)
    ]
    found = gibberish_of(rows)
    assert (found.value, found.low, found.high) == pytest.approx(binomial_interval([1 / 3, 0, 0, 0]))
    assert (found.low or 0) > 0 and (found.high or 0) > 0.4


def test_a_count_that_happens_to_be_one_is_no_share(monkeypatch):
    monkeypatch.setattr(METRICS, "_items", {name: METRICS.get(name) for name in METRICS})

    @metric("ones", label="Ones", description="a count", better={"forget": "lower"}, unit="number")
    def ones(rows):
        return [1.0 for _ in rows]

    shared = {"judges": fake_judges(), "names": ["ones"]}
    measured = score(asked(), "forget", config.Metrics(bootstrap=20), **shared).measurements["ones"]
    assert (measured.low, measured.high) == (1.0, 1.0)
