"""TOFU's numbers on given log-probabilities: worked by hand, invariances, missing parts, other tools' files."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts_fakes import cases, measured

from relearn.core.errors import InputError
from relearn.metrics.intervals import harmonic_mean
from relearn.metrics.memorization import mean_logprob, option_probability, probability
from relearn.metrics.retain_reference import RetainReference, load_reference
from relearn.metrics.tofu import closer_to_1_better, forget_quality, log_truth_ratio, prob_mean, true_better

LOGPROBS = st.lists(st.floats(-30, 0), min_size=1, max_size=8)
AGGREGATORS = {"true_better": true_better, "closer_to_1_better": closer_to_1_better, "prob_mean": prob_mean}


@pytest.mark.parametrize("case", cases("tofu"), ids=lambda case: case["name"])
def test_truth_ratio_by_hand(case):
    ratio = log_truth_ratio(case["right"], case["wrong"], case["mean"])
    assert ratio == pytest.approx(case["log_ratio"], abs=case["tolerance"])
    for name, aggregator in AGGREGATORS.items():
        assert aggregator(ratio) == pytest.approx(case[name], abs=case["tolerance"])


@settings(max_examples=50, deadline=None)
@given(LOGPROBS, st.lists(LOGPROBS, min_size=1, max_size=5))
def test_truth_ratio_is_the_reference_definition(right, wrong):
    """The definition with probabilities, as the public codes write it; they add 1e-10, which is felt below 1e-6."""
    losses = [-sum(one) / len(one) for one in wrong]
    p_right, p_wrong = math.exp(sum(right) / len(right)), math.exp(-sum(losses) / len(losses))
    if p_right < 1e-6 or p_wrong < 1e-6:
        return
    ratio = p_wrong / p_right
    found = log_truth_ratio(right, wrong)
    assert found is not None
    assert math.exp(found) == pytest.approx(ratio, rel=1e-9)
    assert true_better(found) == pytest.approx(max(0, 1 - ratio), abs=1e-9)
    assert closer_to_1_better(found) == pytest.approx(min(ratio, 1 / ratio), rel=1e-9)
    assert prob_mean(found) == pytest.approx(p_right / (p_right + p_wrong), rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(LOGPROBS, st.lists(LOGPROBS, min_size=1, max_size=5), st.floats(-5, 5), st.randoms())
def test_truth_ratio_invariances(right, wrong, shift, random):
    """One constant on every token, the order of tokens and answers, and a repeated text change nothing."""
    found = log_truth_ratio(right, wrong)
    shifted = log_truth_ratio([x + shift for x in right], [[x + shift for x in one] for one in wrong])
    mixed = [random.sample(one, len(one)) for one in random.sample(wrong, len(wrong))]
    assert shifted == pytest.approx(found, abs=1e-9)
    assert log_truth_ratio(right[::-1], mixed) == pytest.approx(found, abs=1e-9)
    assert log_truth_ratio(right * 2, [one * 3 for one in wrong]) == pytest.approx(found, abs=1e-9)
    assert log_truth_ratio(right, [right]) == 0


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_impossible_and_empty_answers(mean):
    never = -math.inf
    assert log_truth_ratio([never], [[-1.0]], mean) == math.inf
    assert log_truth_ratio([-1.0], [[never]], mean) == -math.inf
    assert log_truth_ratio([never], [[never]], mean) is None
    assert log_truth_ratio([], [[-1.0]], mean) is None and log_truth_ratio([-1.0], [], mean) is None
    assert log_truth_ratio([-1.0], [[], [-2.0]], mean) == pytest.approx(-1)
    assert [true_better(math.inf), closer_to_1_better(math.inf), prob_mean(math.inf)] == [0, 0, 0]
    assert [true_better(never), closer_to_1_better(never), prob_mean(never)] == [1, 0, 1]


def test_probability_by_hand():
    assert probability([-0.5, -1.5]) == pytest.approx(0.367879, abs=1e-6)  # e^-1
    assert probability([-math.inf, -1.0]) == 0
    assert probability([]) is None and probability(None) is None
    assert mean_logprob([-1.0, -2.0]) == -1.5
    # .5 of .5 + .25 + .125 + .125
    halves = [[-math.log(2) * n] for n in (1, 2, 3, 3)]
    assert option_probability(halves[0], halves[1:]) == pytest.approx(0.5)
    assert option_probability([-math.inf], [[-1.0]]) == 0
    assert option_probability([-2000.0], [[-1.0]]) == pytest.approx(0)
    assert option_probability([-1.0], [[-2000.0]]) == 1
    assert option_probability([-1.0], []) is None and option_probability([-math.inf], [[-math.inf]]) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(LOGPROBS, min_size=2, max_size=5))
def test_options_share_one(options):
    shares = [option_probability(own, options[:at] + options[at + 1 :]) for at, own in enumerate(options)]
    assert sum(share for share in shares if share is not None) == pytest.approx(1)


def test_digits_in_a_file_are_enough():
    """Seven digits, as answer files have them, move no number by 1e-4, however long the answer."""
    exact = [-1 / 3 - place / 7 for place in range(200)]
    kept = [float(f"{value:.7g}") for value in exact]
    assert probability(kept) == pytest.approx(probability(exact), abs=1e-9)
    assert log_truth_ratio(kept, [exact]) == pytest.approx(0, abs=1e-6)


def test_rows_without_a_paraphrase_are_set_against_the_reference():
    row = {"reference_logprobs": [-1.0], "perturbed_logprobs": [[-3.0]]}
    found = measured({"forget": [row, {**row, "paraphrased_logprobs": [-2.0]}, {"reference_logprobs": [-1.0]}]})[
        "forget"
    ]
    assert found["truth_ratio_prob"].per_record == {
        "0": pytest.approx(1 / (1 + math.exp(-2))),
        "1": pytest.approx(1 / (1 + math.exp(-1))),
        "2": None,
    }
    assert (found["truth_ratio_prob"].n, found["truth_ratio_prob"].unscored) == (2, 1)
    assert found["probability"].value == pytest.approx(math.exp(-1))


def test_old_answers_are_unscored_not_zero():
    found = measured({"forget": [{}, {}]})["forget"]
    for name in ("probability", "exact_memorisation", "extraction_strength"):
        assert (found[name].value, found[name].n, found[name].unscored) == (None, 0, 2)
        assert found[name].why
    assert not [name for name in found if name.startswith("truth_ratio")]  # not about data without wrong answers
    asked_for = measured({"forget": [{}, {}]}, ["truth_ratio_true"])["forget"]["truth_ratio_true"]
    assert (asked_for.value, asked_for.unscored) == (None, 2) and asked_for.why
    assert not {"forget_quality", "privleak", "mia_loss", "model_utility"} & set(found)


def utility_parts():
    """Probability, ROUGE-L and truth ratio of one row each: .5, 1, .5 | .4, .5, .25 | .8, 1, .75."""

    def row(p: float, wrong: float, **more):
        return {"reference_logprobs": [math.log(p)], "perturbed_logprobs": [[math.log(wrong)]], **more}

    return {
        "forget": [row(0.5, 0.5)],
        # R = .25 / .5
        "retain": [row(0.5, 0.25)],
        # .3 / (.3 + .225 + .225) = .4; R = .225 / .3 = .75
        "real_authors": [
            {"reference_logprobs": [math.log(0.3)], "perturbed_logprobs": [[math.log(0.225)]] * 2, "response": "Oslo"}
        ],
        # .2 / (.2 + .05) = .8; R = .05 / .2 = .25
        "world_facts": [row(0.2, 0.05)],
    }


def test_model_utility_by_hand():
    # 9 / (1/.5 + 1 + 1/.5 + 1/.4 + 1/.5 + 1/.25 + 1/.8 + 1 + 1/.75) = 9 / 17.08333
    found = measured(utility_parts())
    utility = found["overall"]["model_utility"]
    assert utility.value == pytest.approx(9 / (2 + 1 + 2 + 2.5 + 2 + 4 + 1.25 + 1 + 4 / 3), abs=1e-12)
    assert (utility.low, utility.high, utility.n, utility.unscored) == (utility.value, utility.value, 3, 0)
    assert found["real_authors"]["probability_options"].value == pytest.approx(0.4)
    assert harmonic_mean([0.5, 0.0]) == 0


def test_model_utility_takes_retain_rows_that_bring_wrong_answers():
    parts = utility_parts()
    parts["retain_heldout"] = parts.pop("retain")
    expected = measured(parts)["overall"]["model_utility"].value
    parts["retain"] = [{"reference_logprobs": [-9.0]}]
    found = measured(parts)["overall"]["model_utility"]
    assert found.value == expected and "retain_heldout" in found.note


def test_model_utility_says_what_is_missing():
    parts = utility_parts()
    assert "overall" not in measured({name: parts[name] for name in ("forget", "retain")})
    del parts["world_facts"]
    found = measured(parts)["overall"]["model_utility"]
    assert found.value is None and "world_facts" in found.why and found.unscored == 2


def test_model_utility_has_an_interval_over_items():
    parts = utility_parts()
    parts["retain"] = [
        {**parts["retain"][0], "response": text} for text in ("Oslo harbour", "Oslo", "Rome", "Oslo harbour")
    ]
    found = measured(parts)["overall"]["model_utility"]
    assert found.low < found.value < found.high


def test_forget_quality_by_hand():
    # Apart entirely: of the C(6, 3) = 20 ways to mix three and three, two are as far apart.
    assert forget_quality([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == pytest.approx(0.1)
    assert forget_quality([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(1)
    assert forget_quality([-math.inf, 2.0, math.inf], [-math.inf, 2.0, math.inf]) == pytest.approx(1)


def test_forget_quality_of_a_run():
    rows = [{"reference_logprobs": [-1.0], "perturbed_logprobs": [[-1.0 - at]]} for at in (1, 2, 3)]
    found = measured({"forget": rows}, reference=RetainReference("kept", (4.0, 5.0, 6.0)))["forget"]["forget_quality"]
    assert (found.value, found.low, found.n) == (pytest.approx(0.1), None, 3)
    assert "kept" in found.note
    assert "retain-only" in measured({"forget": rows})["forget"]["forget_quality"].why
    none = measured({"forget": [{}]}, reference=RetainReference("kept", (4.0,)))["forget"]["forget_quality"]
    assert none.value is None and none.unscored == 1


RATIOS = st.lists(st.integers(-9, 9), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(RATIOS, RATIOS)
def test_forget_quality_does_not_depend_on_the_scale(ours, theirs):
    """The KS test on ln R, on R and on 1 / (1 + R) is one and the same, and neither run comes first."""
    found = forget_quality(ours, theirs)
    assert forget_quality(theirs, ours) == pytest.approx(found)
    for scale in (math.exp, prob_mean):
        assert forget_quality(list(map(scale, ours)), list(map(scale, theirs))) == pytest.approx(found)


def test_openunlearning_file_as_reference(tmp_path):
    path = tmp_path / "TOFU_EVAL.json"
    content = {
        "forget_truth_ratio": {
            "agg_value": 0.6,
            "value_by_index": {"0": {"score": 0.5}, "1": {"score": 2.0}, "2": {"score": None}},
        },
        "mia_min_k": {"agg_value": 0.4, "auc": 0.4},
        "model_utility": {"agg_value": 0.6},
    }
    path.write_text(json.dumps(content))
    found = load_reference(path)
    assert found.log_ratios == pytest.approx((math.log(0.5), math.log(2)))
    assert found.aucs == {"mia_min_k": 0.4}
    content["forget_Truth_Ratio"] = content.pop("forget_truth_ratio")
    path.write_text(json.dumps(content))
    assert load_reference(path) == found


def test_our_own_run_as_reference(tmp_path):
    values = {"a": prob_mean(-2.0), "b": prob_mean(3.0), "c": None}
    metrics = {"truth_ratio_prob": {"per_record": values}, "mia_min_k": {"value": 0.55}, "mia_loss": {"value": None}}
    (tmp_path / "scores.json").write_text(json.dumps({"before": {"forget": {"metrics": metrics}}, "after": {}}))
    for place in (tmp_path, tmp_path / "scores.json"):
        found = load_reference(place)
        assert found.log_ratios == pytest.approx((-2, 3))
        assert found.aucs == {"mia_min_k": 0.55}


@pytest.mark.parametrize("content", ["{}", "[]", '{"after": {"forget": {"metrics": {}}}}', "no"])
def test_a_reference_that_holds_nothing_is_refused(tmp_path, content):
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(InputError, match=r"scores\.json"):
        load_reference(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        load_reference(tmp_path / "nowhere.json")
