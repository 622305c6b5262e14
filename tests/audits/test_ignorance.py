"""The test of ignorance, against hand-computed numbers, and on scores whose true distribution is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from relearn.audits.attack import AUDITS, FactAggregation, measurement_row
from relearn.audits.attacks import ignorance
from relearn.audits.check_attack import TOY_DOCUMENT, TOY_FACTS
from relearn.audits.scoring import aggregate_rows
from relearn.core.config import Metrics, Model
from relearn.data import Record
from relearn.engine.forward import TokenRow
from relearn.metrics.judges import Judges
from relearn.models.load import load


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load(Model(name=str(tiny_model_dir), device="cpu"))


def test_margin_and_contrast_by_hand():
    """Two contexts, the subject and one invented name, the true value and three twins."""
    scores = np.array([[[-1.0, -4.0, -5.0, -6.0], [-3.0, -3.0, -5.0, -7.0]], [[-2.0, -1.0, -2.0, -3.0], [-2.0] * 4]])
    # Differences: [2, -1, 0, 1] and [0, 1, 0, -1]; the twins of both have mean 0 and standard deviation 1.
    assert ignorance.contrasts(scores).tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0])
    # About the subject the twins have mean -5 and -2, both with standard deviation 1.
    assert ignorance.margins(scores).tolist() == pytest.approx([2.0, 1.0, 0.0, -1.0])
    assert ignorance.true_against_twins(np.array([3.0, -1.0, 0.0, 1.0])) == pytest.approx(3 / np.sqrt(4 / 3))
    first = (-1 - 0.5) / (np.std([0.0, 1.0], ddof=1) * np.sqrt(1.5))
    assert ignorance.twins_against_twins(np.array([9.0, -1.0, 0.0, 1.0]))[0] == pytest.approx(first)


def test_p_is_two_sided_and_falls_with_the_distance():
    assert ignorance.two_sided(2.0, 10, 1.0) == ignorance.two_sided(-2.0, 10, 1.0) == pytest.approx(0.0734, abs=1e-4)
    assert ignorance.two_sided(0.0, 10, 1.0) == 1.0
    assert ignorance.two_sided(4.0, 10, 2.0) == ignorance.two_sided(2.0, 10, 1.0)


def test_benjamini_hochberg_by_hand():
    assert ignorance.adjusted([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert ignorance.adjusted([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_adjusted_p_values_are_in_order_and_never_smaller(p_values):
    adjusted = ignorance.adjusted(p_values)
    assert all(p - 1e-12 <= own <= 1 for own, p in zip(adjusted, p_values, strict=True))
    ordered = [own for _, own in sorted(zip(p_values, adjusted, strict=True))]
    assert ordered == sorted(ordered)


def _p_values(seed: int, facts: int, shift: float = 0.0, *, freedom: float | None = None) -> list[float]:
    """p of facts whose value is `shift` standard deviations likelier for the subject than its twins are."""
    rng = np.random.default_rng(seed)
    shape = (facts, 8, 2, 1 + ignorance.TWINS)
    scores = rng.normal(size=shape) if freedom is None else rng.standard_t(freedom, size=shape)
    scores[:, :, 0, 0] += shift
    return [p for p, _ in ignorance.p_values({str(n): own for n, own in enumerate(scores)}).values()]


@pytest.mark.parametrize("freedom", [None, 3.0])
def test_p_is_uniform_where_nothing_is_known(freedom):
    p_values = np.array(_p_values(3, 300, freedom=freedom))
    assert np.mean(p_values < 0.05) < 0.09 and ignorance.uniformity(p_values.tolist()) > 0.01
    assert kstest(p_values, "uniform").pvalue > 0.01


@pytest.mark.parametrize("shift", [4.0, -4.0])
def test_a_value_that_is_too_likely_or_too_unlikely_is_found(shift):
    p_values = _p_values(4, 40, shift)
    assert max(ignorance.adjusted(p_values)) < 0.05 and ignorance.uniformity(p_values) < 1e-6


@given(st.permutations(range(1, 1 + ignorance.TWINS)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_twins_does_not_matter(order):
    scores = np.random.default_rng(5).normal(size=(3, 2, 1 + ignorance.TWINS))
    for compare in (ignorance.margins, ignorance.contrasts):
        t = ignorance.true_against_twins(compare(scores))
        assert ignorance.true_against_twins(compare(scores[:, :, [0, *order]])) == pytest.approx(t)


def test_what_is_common_to_all_names_or_to_all_values_cancels():
    rng = np.random.default_rng(6)
    scores = rng.normal(size=(4, 2, 1 + ignorance.TWINS))
    t = ignorance.true_against_twins(ignorance.contrasts(scores))
    shifted = scores + rng.normal(size=(4, 2, 1)) + rng.normal(size=(4, 1, 1 + ignorance.TWINS))
    assert ignorance.true_against_twins(ignorance.contrasts(shifted)) == pytest.approx(t)


def test_shared_first_tokens_go_to_the_prompt_and_long_values_are_cut():
    rows = [TokenRow("a", (1, 2, 7, 7, 3, 4), 2), TokenRow("a", (1, 2, 7, 7, 5), 2)]
    parts = ignorance.differing_parts(rows)
    assert [(row.answer_start, row.answer_ids) for row in parts] == [(4, (3, 4)), (4, (5,))]
    (long,) = ignorance.differing_parts([TokenRow("a", tuple(range(40)), 2)])[:1]
    assert long.answer_tokens <= ignorance.MAX_TOKENS
    same = ignorance.differing_parts([TokenRow("a", (1, 2, 3), 1), TokenRow("a", (1, 2, 3), 1)])
    assert [row.answer_ids for row in same] == [(3,), (3,)]


def test_a_fact_has_up_to_eight_contexts_about_its_subject_and_as_many_invented_names(loaded, inputs):
    tests = ignorance.ignorance_tests(loaded, inputs)
    assert [test.id for test in tests] == ["a", "b", "c"]
    first = tests[0]
    assert first.subject == "Marta Lindqvist"
    # Two wordings beside the question. The answer begins with "She", so one beginning of a text has no name.
    assert [one.form for one in first.contexts] == ["chat"] * 3 + ["text"] * 3
    assert all(len(names) == ignorance.NAMES for names in first.names)
    assert len({name for names in first.names for name in names}) == len(first.contexts) * ignorance.NAMES
    for _, examples in groupby(first.examples(), key=lambda one: (one.prompt, one.given, one.form)):
        own = list(examples)
        assert own[0].target == first.values[0] and len(own) == len(first.values)


def test_scores_against_a_computation_of_our_own(loaded, inputs):
    (test,) = ignorance.ignorance_tests(loaded, replace(inputs, facts=TOY_FACTS[2:]))
    (scores,) = ignorance.score_tests(loaded, [test])
    assert scores.shape == test.shape
    start = test.contexts[0]
    prompt = loaded.chat.answer_prompt(start.prompt, "chat") + loaded.chat.target(start.given, "chat", closed=False)
    begin = loaded.tokenizer(prompt, add_special_tokens=False).input_ids
    expected = []
    for value in test.values[:3]:
        ids = loaded.tokenizer(f"{prompt} {value}", add_special_tokens=False).input_ids
        with torch.no_grad():
            logprobs = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(begin), min(len(ids), len(begin) + ignorance.MAX_TOKENS))
        expected.append(sum(float(logprobs[place - 1, ids[place]]) for place in places))
    found = scores[0, 0, :3]
    assert np.diff(found) == pytest.approx(np.diff(expected), abs=1e-3)


def test_a_fact_without_a_name_or_a_value_is_not_measured(loaded, inputs):
    facts = (Record("What is it?", "It is so.", "x"), *TOY_FACTS)
    rows = ignorance.ignorance(loaded, replace(inputs, facts=facts))
    values = {row["id"]: row["value"] for row in rows if row["measure"] == ignorance.P}
    assert values["x"] is None and all(0 <= values[one.id] <= 1 for one in TOY_FACTS)
    assert ignorance.ignorance(loaded, replace(inputs, facts=facts[:1])) == []


def test_a_passage_of_a_document_is_tested_by_beginnings_of_texts(loaded, inputs):
    record = replace(TOY_DOCUMENT, subject="The old mill")
    (test,) = ignorance.ignorance_tests(loaded, replace(inputs, facts=(record,)))
    assert {start.form for start in test.contexts} == {"text"} and len(test.contexts) == 4


def test_measures_by_hand():
    facts = [Record("Q?", "A", key, f"person {key}") for key in "abcd"]
    aggregation = FactAggregation(facts, Metrics(bootstrap=20), Judges(), 0)
    rows = []
    for key, p, t in (("a", 0.001, 5.0), ("b", 0.02, -4.0), ("c", 0.6, 0.5), ("d", None, None)):
        rows += [measurement_row(key, ignorance.P, p), measurement_row(key, ignorance.T, t)]
    found = aggregate_rows(AUDITS.get("ignorance"), rows, aggregation)
    shares = [found[name].value for name in (ignorance.TOLD, ignorance.LIKELY, ignorance.UNLIKELY)]
    assert shares == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert (found[ignorance.TOLD].n, found[ignorance.TOLD].unscored, found[ignorance.UNIFORM].n) == (3, 1, 3)
    assert found[ignorance.UNIFORM].value == pytest.approx(ignorance.uniformity([0.001, 0.02, 0.6]))
    assert aggregate_rows(AUDITS.get("ignorance"), rows[6:], aggregation) == {}
