"""The pairs about facts that the built-in judge learns from and is checked on: their labels, and what is held out."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

JUDGES = Path(__file__).resolve().parents[2] / "research" / "judge_training"
sys.path.append(str(JUDGES))

import facts  # noqa: E402
import stories  # noqa: E402
import turned  # noqa: E402
import values  # noqa: E402
import words  # noqa: E402
from relations import RELATIONS  # noqa: E402

from data import Pair, batches  # noqa: E402

PARTS = [False, True]


def script(name: str) -> ModuleType:
    """Load a judge-training script under a module name of its own: other folders have scripts of that name."""
    spec = importlib.util.spec_from_file_location(f"judges_{name}", JUDGES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pairs() -> dict[bool, list]:
    return {False: facts.training_facts(seed=3, count=3000), True: facts.held_out_facts(seed=3, count=3000)}


def test_the_same_seed_gives_the_same_pairs():
    assert facts.training_facts(7, 50) == facts.training_facts(7, 50) != facts.training_facts(8, 50)


@pytest.mark.parametrize("held_out", PARTS)
def test_no_pair_stands_twice_and_every_label_is_common(pairs, held_out):
    found = pairs[held_out]
    assert len({pair[:2] for pair in found}) == len(found)
    for label in ("entailment", "neutral", "contradiction"):
        assert sum(pair.label == label for pair in found) > len(found) / 6


def test_nothing_held_out_is_trained_on(pairs):
    trained = " ".join(text for pair in pairs[False] for text in pair[:2])
    checked = " ".join(text for pair in pairs[True] for text in pair[:2])
    for items in (words.SURNAMES, words.STREETS, words.JOBS, words.DOMAINS, words.REFUSALS, words.GENRES):
        held_out, used = words.share(items, True), words.share(items, False)
        assert not set(held_out) & set(used) and len(held_out) + len(used) == len(items)
        assert not [item for item in held_out if f" {item}" in trained]
        assert not [item for item in used if f" {item}" in checked]


@pytest.mark.parametrize("held_out", PARTS)
def test_labels_follow_from_what_the_pair_says(held_out):
    maker = facts.Maker(5, held_out)
    for _ in range(200):
        assert (same := maker._identical()).premise == same.hypothesis and same.label == "entailment"
        changed = maker._one_changed()
        assert changed.label == "contradiction" and changed.premise != changed.hypothesis
        assert maker._refusal().label == maker._private().label == maker._vague_gives_nothing().label == "neutral"
        part, more = maker._part(), maker._more()
        assert (part.label, more.label) == ("entailment", "neutral")
        assert maker._other_person().label == "neutral"


@given(st.sampled_from(sorted(values.VALUES)), st.integers(0, 10_000), st.booleans(), st.booleans())
def test_a_changed_value_is_another_one(kind, seed, held_out, whole):
    rng = random.Random(seed)
    share = lambda items: words.share(items, held_out)  # noqa: E731
    value = values.VALUES[kind](rng, share)
    other = values.changed(kind, value, rng, share, whole)
    assert other.replace(",", "") != value.replace(",", "")
    if kind in ("place", "birthplace", "town"):
        country = {words.PLACES[place.split(", ")[0]] for place in (value, other)}
        assert len(country) == 2


def test_every_wording_has_its_slots():
    for relation in RELATIONS:
        for wording in [*relation.said.split("|"), *relation.denied.split("|")]:
            assert "{s}" in wording or "{p}" in wording or relation.kind == "name", wording
        assert all("{v}" in wording for wording in relation.said.split("|"))
        assert not [wording for wording in relation.vague.split("|") if "{v}" in wording]


@pytest.mark.parametrize("held_out", PARTS)
def test_longer_answers_are_labelled_by_what_fills_them(held_out):
    teller = stories.Teller(5, held_out)
    plain = {filling for frame in stories.FRAMES for filling in frame.plain.replace("\n", "|").split("|")}
    woolly = {filling for frame in stories.FRAMES for filling in frame.woolly.replace("\n", "|").split("|")}
    assert not plain & woolly

    def says(text: str, fillings: set[str]) -> set[str]:
        return {filling for filling in fillings if filling in text}

    for _ in range(200):
        vague = teller._woolly()
        assert says(vague.premise, woolly) and not says(vague.premise, plain) and says(vague.hypothesis, plain)
        changed, same = teller._changed(), teller._same()
        assert says(changed.premise, plain) != says(changed.hypothesis, plain)
        assert says(same.premise, plain) == says(same.hypothesis, plain) != set()
        labels = (vague.label, changed.label, same.label, teller._more().label, teller._part().label)
        assert labels == ("neutral", "contradiction", "entailment", "neutral", "entailment")


def test_longer_answers_held_out_have_other_fillings():
    trained = " ".join(text for pair in stories.training_stories(3, 2000) for text in pair[:2])
    for frame in stories.FRAMES:
        for filling in words.share(frame.plain.replace("\n", "|").split("|"), True):
            assert filling not in trained


def test_pairs_are_turned_round_by_hand(monkeypatch):
    for name in ("FOLLOWING", "CONTRADICTING", "BESIDE"):
        monkeypatch.setattr(turned, name, 1)
    long = "A man in a red coat rides a horse over a fence."
    snli = [
        Pair(long, "A man rides.", "entailment"),
        Pair(long, "The man trains for a competition.", "neutral"),
        Pair(long, "A man sleeps.", "contradiction"),
        # As long as its premise: it may well give the premise back, and is left out.
        Pair("Two dogs run.", "Dogs are running.", "entailment"),
    ]
    assert turned.turned_pairs(snli, 1) == [
        Pair("A man rides.", long, "neutral"),
        Pair("A man sleeps.", long, "contradiction"),
        Pair("A man rides.", "The man trains for a competition.", "neutral"),
    ]


@given(st.lists(st.integers(5, 60), min_size=1, max_size=200), st.integers(1, 40))
def test_every_row_stands_in_one_batch_and_each_part_of_it_has_one_length(lengths, size):
    totals = np.array(lengths)
    steps = list(batches(totals, np.arange(len(totals)), size, np.random.default_rng(0)))
    assert sorted(row for step in steps for part in step for row in part) == list(range(len(totals)))
    assert all(len(set(totals[part])) == 1 for step in steps for part in step)


def test_the_calibration_error_by_hand():
    """Four pairs at 0.9, three of them right, and four at 0.6, all right: (4 * 0.15 + 4 * 0.4) / 8 = 0.275."""
    check = script("check")
    probabilities = np.array([[0.9, 0.1, 0.0]] * 4 + [[0.2, 0.6, 0.2]] * 4)
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    bins = check.reliability(probabilities, labels)
    assert bins == [pytest.approx((0.6, 1.0, 4)), pytest.approx((0.9, 0.75, 4))]
    assert check.calibration_error(bins) == pytest.approx(0.275)


def test_scores_by_hand():
    """Of three entailed pairs two are found, of one neutral none, of one contradicting one."""
    check = script("check")
    answers = np.eye(3)[[0, 0, 2, 0, 2]]
    found = check.scores(answers, np.array([0, 0, 0, 1, 2]))
    assert found["confusion"] == [[2, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert (found["accuracy"], found["commonest_label"]) == (0.6, 0.6)
    # F1 = 2 * right / (true + answered): 4 / 6, 0 / 1 and 2 / 3.
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3, abs=1e-4)


def test_the_temperature_makes_the_labels_likeliest(monkeypatch):
    """Right in three of four: the best probability is 3 / 4, so the logits ought to be ln 3 apart and are 4."""
    monkeypatch.setitem(sys.modules, "check", script("check"))
    logits = torch.tensor([[4.0, 0.0, -1e4]] * 4, dtype=torch.float64)
    found = script("export").fitted_temperature(logits, torch.tensor([0, 0, 0, 1]))
    assert found == pytest.approx(4 / np.log(3), rel=1e-3)
