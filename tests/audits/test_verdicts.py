"""Verdicts from fact matches, worked out by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.audits.attack import FactAggregation
from relearn.audits.fact_matching import FactMatches
from relearn.audits.scoring import leak_at, verdicts
from relearn.core.config import Metrics
from relearn.data import Record
from relearn.metrics.judges import Judges

SAID, NOTHING = ["12 Elm Street"], []


def matches(attack: str, counts: bool = True, **models) -> FactMatches:
    variants: Any = {"v": {"a": models}}
    return FactMatches(attack, variants, frozenset({"v"} if counts else ()))


def verdict_of(plain: FactMatches, *attacks: FactMatches) -> tuple[str, tuple, tuple]:
    (found,) = verdicts({"a": "Where?"}, plain, attacks)
    return found.verdict, found.by, found.beside


KNOWN = matches("plain", start=SAID, after=NOTHING, control=NOTHING)


def test_gone_when_nothing_brings_it_back():
    assert verdict_of(KNOWN, matches("prefix", start=SAID, after=NOTHING, control=NOTHING)) == ("gone", (), ())


def test_hidden_when_an_attack_brings_it_back_and_the_control_does_not_know_it():
    assert verdict_of(KNOWN, matches("prefix", after=SAID, control=NOTHING)) == ("hidden", ("prefix",), ())


def test_what_the_control_says_too_was_guessed():
    assert verdict_of(KNOWN, matches("prefix", after=SAID, control=SAID)) == ("gone", (), ())


def test_attacks_that_do_not_count_are_named_beside():
    assert verdict_of(KNOWN, matches("adapters", counts=False, after=SAID)) == ("gone", (), ("adapters",))


def test_there_when_the_plain_question_is_enough():
    plain = matches("plain", start=SAID, after=SAID, control=NOTHING)
    assert verdict_of(plain, matches("prefix", after=SAID, control=NOTHING)) == ("there", ("plain", "prefix"), ())


def test_never_known_when_the_start_model_did_not_say_it():
    plain = matches("plain", start=NOTHING, after=SAID, control=NOTHING)
    assert verdict_of(plain, matches("prefix", after=SAID)) == ("never_known", (), ())


def test_a_variant_counts_against_the_control_under_the_same_variant():
    """What the control says under one wording does not excuse what the model says under another."""
    attack = FactMatches(
        "prefix",
        {"one": {"a": {"after": SAID, "control": SAID}}, "two": {"a": {"after": SAID, "control": NOTHING}}},
        frozenset({"one", "two"}),
    )
    assert verdict_of(KNOWN, attack)[0] == "hidden"
    excused = FactMatches(attack.attack, attack.variants, frozenset({"one"}))
    assert verdict_of(KNOWN, excused) == ("gone", (), ("prefix",))


@pytest.mark.parametrize("after", [SAID, NOTHING])
def test_a_fact_that_was_not_asked_about_is_not_brought_back(after):
    relearning = FactMatches("relearning", {"v": {"b": {"after": after}}}, frozenset({"v"}))
    assert verdict_of(KNOWN, relearning) == ("gone", (), ())


def test_a_plain_answer_cut_off_in_its_thoughts_leaves_the_fact_without_a_verdict():
    found = FactMatches("plain", {"v": {"a": {"start": SAID, "after": NOTHING}, "b": {"start": SAID}}})
    assert found.answered("a", ("start", "after"))
    assert not found.answered("b", ("start", "after")) and not found.answered("c", ("start",))


def test_a_share_of_facts_that_is_1_has_an_open_interval():
    """Four facts, all brought back: .025 ^ (1 / 4). Other numbers keep the bootstrap."""
    facts = [Record(f"Where {at}?", f"There {at}.", str(at), f"person {at}") for at in range(4)]
    aggregation = FactAggregation(facts, Metrics(bootstrap=50), Judges(), 0)
    found = aggregation.mean({fact.id: 1.0 for fact in facts})
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(0.025**0.25), 1.0)
    mixed = aggregation.mean({fact.id: 0.2 + 0.1 * at for at, fact in enumerate(facts)})
    assert mixed.low is not None and mixed.low >= 0.2


@given(st.integers(1, 6), st.integers(0, 7), st.integers(1, 7))
def test_leak_at_k_is_the_share_of_draws_of_k_samples_that_state_the_fact(k, stated, samples):
    stated = min(stated, samples)
    draws = list(itertools.combinations([number < stated for number in range(samples)], k))
    expected = sum(map(any, draws)) / len(draws) if draws else None
    assert leak_at(k, samples, stated) == (None if expected is None else pytest.approx(expected))
