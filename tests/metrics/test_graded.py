"""Graded KFR and KRR: by hand, monotone, in the unit interval, and the strict decision at the extremes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metric_fakes import fake_judges, row

from relearn.core import config
from relearn.metrics.entity_coverage import Coverage
from relearn.metrics.knowledge import contradiction, forgotten, graded_kept, kept, soft_coverages
from relearn.metrics.nli import NLIVerdict
from relearn.metrics.score import score
from relearn.text.entities import EmbeddingMatcher, ExactMatcher, best_total

SETTINGS = config.Metrics(bootstrap=20)
UNIT = st.floats(0, 1)


class Angles:
    """Words whose embeddings have the cosine written down for them with "x"."""

    def __init__(self, cosines):
        self.cosines = cosines

    def encode(self, texts):
        return np.array([self._vector(self.cosines.get(text, 1.0)) for text in texts]).reshape(len(texts), 2)

    def _vector(self, cosine):
        return [cosine, np.sqrt(max(0.0, 1 - cosine**2))]


def matcher_of(cosines) -> EmbeddingMatcher:
    matcher = EmbeddingMatcher("not loaded")
    matcher._encoder = Angles(cosines)
    return matcher


def verdict(p: float) -> NLIVerdict:
    label = "contradiction" if p > 0.5 else "neutral"
    return NLIVerdict(label, {"entailment": 0.0, "neutral": 1 - p, "contradiction": p})


def test_closeness_grows_from_unrelated_to_the_threshold():
    matcher = matcher_of({"far": 0.2, "floor": 0.4, "half": 0.6, "pair": 0.8, "near": 0.95})
    (found,) = matcher.closeness([(["x"], ["far", "floor", "half", "pair", "near"])])
    assert found[0] == pytest.approx([0, 0, 0.5, 1, 1])


def test_closeness_of_the_same_text_is_1_and_of_contradicting_numbers_0():
    (found,) = matcher_of({}).closeness([(["1977", "a@b.org", "Oslo"], ["1978", "c@b.org", "the Oslo"])])
    assert found[0, 0] == 0 and found[1, 1] == 0 and found[2, 2] == 1


def test_soft_coverage_by_hand():
    matcher = matcher_of({"half": 0.6, "other": 0.5})
    item = Coverage(("x", "Oslo"), ("Oslo",), answer=("Oslo", "half"))
    # Oslo pairs with Oslo (1), x with half: (0.6 - 0.4) / (0.8 - 0.4) = 0.5; (1 + 0.5) / 2
    assert soft_coverages([item], matcher) == [pytest.approx(0.75)]
    none, empty = Coverage((), ()), Coverage(("x",), (), empty_answer=True)
    assert soft_coverages([none, empty, None], matcher) == [None, 0.0, None]
    assert soft_coverages([item], None) == [None]


@given(st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_best_total_equals_brute_force(rows, columns, random):
    from itertools import permutations

    closeness = np.array([[random.random() for _ in range(columns)] for _ in range(rows)])
    wide = closeness if rows <= columns else closeness.T
    best = max(
        sum(wide[at, column] for at, column in enumerate(order))
        for order in permutations(range(wide.shape[1]), wide.shape[0])
    )
    assert best_total(closeness) == pytest.approx(best)


@given(UNIT, UNIT, UNIT, UNIT)
def test_values_lie_in_the_unit_interval_and_are_monotone(soft, more, p, worse):
    low, high = sorted((soft, more))
    better, bad = sorted((p, worse))
    value = graded_kept(True, low, verdict(bad))
    assert 0 <= value <= 1
    assert value <= graded_kept(True, high, verdict(bad))
    assert value <= graded_kept(True, low, verdict(better))


@pytest.mark.parametrize("soft", [0.0, 1.0])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_at_the_extremes_it_is_the_strict_decision(soft, p):
    names = ("a", "b")
    item = Coverage(names, names if soft else ())
    value = graded_kept(True, soft, verdict(p))
    assert value == float(kept(item, verdict(p), SETTINGS))
    assert 1 - value == float(forgotten(item, verdict(p), SETTINGS))


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_without_entities_only_the_judge_speaks(p):
    value = graded_kept(True, None, verdict(p))
    assert value == float(kept(Coverage((), ()), verdict(p), SETTINGS))
    assert graded_kept(True, None, None) is None


def test_a_label_without_probabilities_is_all_or_nothing_and_a_failed_judge_scores_nothing():
    assert contradiction(NLIVerdict("contradiction")) == 1
    assert contradiction(NLIVerdict("neutral")) == 0
    assert graded_kept(True, 0.5, NLIVerdict(None)) is None
    assert graded_kept(False, None, verdict(0.5)) is None


def test_both_over_a_set_by_hand():
    rows = [
        row("Oslo Rome", id="half"),
        row("Oslo Rome Paris Lima", id="all"),
        row("nowhere", id="none"),
        row("", id="empty"),
        row("hm", "nothing", id="unnamed"),
    ]
    forget = score(rows, "forget", SETTINGS, judges=fake_judges(), names=["graded_kfr"]).measurements["graded_kfr"]
    assert forget.per_record == {"half": 0.5, "all": 0, "none": 1, "empty": 1, "unnamed": None}
    assert (forget.value, forget.n, forget.unscored) == (pytest.approx(2.5 / 4), 4, 1)
    assert "rests on entity coverage alone" in forget.note
    judged = fake_judges(labels={"Oslo Rome Paris Lima": "contradiction"})
    retain = score(rows[:1] + rows[2:3], "retain", SETTINGS, judges=judged, names=["graded_krr"])
    # reference "Oslo Rome Paris Lima" is the premise of both: p = 1
    assert retain.measurements["graded_krr"].per_record == {"half": 0, "none": 0}


@given(st.lists(st.sampled_from(["Oslo", "Rome", "Lima"]), min_size=1), st.lists(st.sampled_from(["Oslo", "Rome"])))
def test_soft_coverage_is_at_least_the_strict_one(reference, answer):
    from relearn.metrics.entity_coverage import coverages

    asked = row(" ".join(answer), " ".join(reference))
    for matcher in (ExactMatcher(), matcher_of({"Rome": 0.7})):
        (strict,) = coverages([asked], fake_judges(matcher=matcher))
        (soft,) = soft_coverages([strict], matcher)
        assert soft >= strict.value - 1e-9
