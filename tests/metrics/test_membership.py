"""Membership attacks, AUC and PrivLeak: by hand, by their properties, and where something is missing."""

from __future__ import annotations

import math
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts_fakes import cases, measured, rows_of

from relearn.metrics import membership
from relearn.metrics.membership import auc, min_k, privleak, standardised
from relearn.metrics.memorization import mean_logprob
from relearn.metrics.retain_reference import ATTACKS, RetainReference

GIVEN = cases("membership")
NUMBERS = st.lists(st.integers(-4, 4), min_size=1, max_size=12)


@pytest.mark.parametrize("case", GIVEN["scores"], ids=lambda case: case["worked"])
def test_scores_by_hand(case):
    fields = {"reference_logprobs": case["logprobs"], "closing_tokens": case.get("closing", 0)}
    row = rows_of([{**fields, "reference_moments": case.get("moments")}])[0]
    if "min_k" in case:
        assert membership._min_k(row, case["k"]) == case["min_k"]
    if "min_k_plus_plus" in case:
        assert membership._min_k_plus_plus(row, case["k"]) == pytest.approx(case["min_k_plus_plus"])


@pytest.mark.parametrize("case", GIVEN["auc"], ids=lambda case: case["worked"])
def test_auc_by_hand(case):
    assert auc(case["members"], case["others"]) == pytest.approx(case["auc"])


@pytest.mark.parametrize("case", GIVEN["privleak"], ids=lambda case: case["worked"])
def test_privleak_by_hand(case):
    found = privleak(case["unlearned"], case["retrained"])
    assert found == (None if case["privleak"] is None else pytest.approx(case["privleak"]))


@settings(max_examples=60, deadline=None)
@given(NUMBERS, NUMBERS)
def test_auc_of_swapped_sets_is_the_rest(members, others):
    pairs = [(one > other) + 0.5 * (one == other) for one in members for other in others]
    assert auc(members, others) == pytest.approx(sum(pairs) / len(pairs))
    assert auc(others, members) == pytest.approx(1 - auc(members, others))
    assert auc([3 * one + 7 for one in members], [3 * other + 7 for other in others]) == auc(members, others)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-30, 0), min_size=1, max_size=20), st.floats(0.01, 1))
def test_min_k_of_all_tokens_is_the_loss(logprobs, k):
    assert min_k(logprobs, 1.0) == pytest.approx(mean_logprob(logprobs))
    few = min_k(logprobs, k)
    assert few is not None and min(logprobs) <= few <= mean_logprob(logprobs) + 1e-9
    assert standardised(logprobs, [(0.0, 1.0)] * len(logprobs)) == logprobs


def attacked(members: list[list[float]], others: list[list[float]], **more):
    """Rows of both sets whose base model finds every token equally likely, and whose moments are (-2, 1)."""

    def row(logprobs: list[float]):
        return {
            "reference_logprobs": logprobs,
            "base_logprobs": [-2.0] * len(logprobs),
            "reference_moments": [[-2.0, 1.0]] * len(logprobs),
        }

    return measured({"forget": [row(one) for one in members], "holdout": [row(one) for one in others]}, **more)


def test_every_attack_sees_what_was_learned():
    found = attacked([[-0.1, -0.2], [-0.3]], [[-2.0, -3.0], [-4.0], [-1.0]])
    for name in ATTACKS:
        assert (found["forget"][name].value, found["forget"][name].n, found["forget"][name].unscored) == (1, 2, 0)
        assert found["forget"][name].low == found["forget"][name].high == 1
        assert set(found["forget"][name].per_record) == {"0", "1"}
    assert "3 answers" in found["forget"]["mia_loss"].note


def test_zlib_and_reference_by_hand():
    rows = [{"reference_logprobs": [-1.0, -3.0], "base_logprobs": [-2.5], "reference": "at " * 50}]
    found = measured({"forget": rows, "holdout": rows})["forget"]
    assert found["mia_zlib"].per_record["0"] == pytest.approx(-2 / len(zlib.compress(b"at " * 50)))
    assert found["mia_reference"].per_record["0"] == pytest.approx(0.5)
    assert found["mia_loss"].per_record["0"] == pytest.approx(-2)
    assert [found[name].value for name in ("mia_zlib", "mia_reference", "mia_loss", "mia_min_k")] == [0.5] * 4


def test_a_model_that_is_its_own_base_cannot_be_told_apart():
    """What differs is the rounding of two passes."""
    rows = [{"reference_logprobs": [-1.0 - at], "base_logprobs": [-1.0 - at + 3e-6 * (-1) ** at]} for at in range(4)]
    found = measured({"forget": rows[:2], "holdout": rows})["forget"]["mia_reference"]
    assert found.value == 0.5


def test_the_interval_holds_the_value_and_moves_with_the_items():
    found = attacked([[-1.0], [-2.0], [-5.0]], [[-3.0], [-4.0], [-0.5]], bootstrap=200)["forget"]["mia_loss"]
    assert found.value == pytest.approx(4 / 9)  # -1 and -2 beat two each, -5 none
    assert 0 <= found.low < found.value < found.high <= 1


def test_privleak_of_a_run():
    reference = RetainReference("kept", aucs={"mia_min_k": 0.5})
    found = attacked([[-0.1]], [[-2.0]], reference=reference)["forget"]["privleak"]
    assert (found.value, found.n) == (-100, 1)
    assert attacked([[-2.0]], [[-0.1]], reference=reference)["forget"]["privleak"].value == 100
    missing = attacked([[-0.1]], [[-2.0]])["forget"]["privleak"]
    assert missing.value is None and "retain-only" in missing.why and missing.unscored == 1


def test_without_holdout_there_is_no_attack_and_the_holdout_is_nobodys_retain_set():
    row = {"reference_logprobs": [-1.0], "reference_hits": [1]}
    assert not set(ATTACKS) & set(measured({"forget": [row]})["forget"])
    found = measured({"forget": [row], "holdout": [row]})
    assert found["holdout"]["probability"].value == pytest.approx(math.exp(-1))
    assert not {"krr", "kfr", "rouge_l", "gibberish", "ls", "ppl"} & set(found["holdout"])


def test_what_was_not_measured_is_counted():
    rows = [{"reference_logprobs": [-1.0]}, {"reference_logprobs": []}, {}]
    found = measured({"forget": rows, "holdout": rows})["forget"]
    assert (found["mia_loss"].value, found["mia_loss"].n, found["mia_loss"].unscored) == (0.5, 1, 2)
    assert "2 more" in found["mia_loss"].note
    assert (found["mia_min_k_plus_plus"].value, found["mia_min_k_plus_plus"].unscored) == (None, 3)
    assert found["mia_reference"].why


def test_an_impossible_answer_is_the_least_likely_and_stays_a_number():
    found = measured({"forget": [{"reference_logprobs": [-math.inf]}], "holdout": [{"reference_logprobs": [-1.0]}]})[
        "forget"
    ]
    assert found["mia_loss"].value == 0 and math.isfinite(found["mia_loss"].per_record["0"])
