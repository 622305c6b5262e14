"""Attacks that measure probabilities and states, against hand-computed numbers and independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from relearn.audits.attack import AUDITS, FactAggregation, measurement_row
from relearn.audits.attacks import likelihood, linear_probe
from relearn.audits.check_attack import TOY_FACTS as FACTS
from relearn.audits.check_attack import TOY_RETAIN as RETAIN
from relearn.audits.scoring import aggregate_rows
from relearn.core.config import Metrics, Model
from relearn.data import Record
from relearn.leakage.secrets import read_secrets
from relearn.leakage.twins import CHOICES, AnswerChoices, answer_choices, replace_name, twin_answers
from relearn.metrics.judges import Judges
from relearn.models.load import load

ACCESS = [name for name in AUDITS if AUDITS.get(name).measure]


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load(Model(name=str(tiny_model_dir), device="cpu"))


@pytest.fixture
def aggregation() -> FactAggregation:
    return FactAggregation(FACTS, Metrics(bootstrap=20), Judges(), 0)


def test_ranks_by_hand():
    logits = torch.tensor([[0.1, 3.0, 2.0, 2.5], [1.0, 1.0, 1.0, 0.0]])
    assert likelihood.ranks(logits, torch.tensor([2, 1])) == [3, 1]
    found = likelihood.top_k_shares([1, 5, 6, 51])
    assert found["tokens in top 1"] == 0.25 and found["tokens in top 5"] == 0.5 and found["tokens in top 10"] == 0.75
    assert found["tokens in top 50"] == 0.75 and found["whole secret in top 50"] == 0.0
    assert likelihood.top_k_shares([1, 1])["whole secret in top 1"] == 1.0


def test_the_places_of_a_secret_by_hand():
    pieces = [" She", " lives", " at", " 12", " El", "m", " Street", "."]
    answer = "She lives at 12 Elm Street."
    assert likelihood.secret_positions(pieces, answer, [(13, 15), (16, 19)]) == [3, 4, 5]
    assert likelihood.secret_positions(pieces, "Something else", [(0, 3)]) == []


def test_secret_spans_are_what_the_question_has_not():
    found = {}
    for secret in read_secrets(FACTS):
        found.setdefault(secret.record.id, [secret.record.answer[a:b] for a, b in likelihood.secret_spans(secret)])
    assert {"12", "Elm", "Uppsala"} <= set(found["a"]) and "lives" not in found["a"]
    assert "Marta" not in found["c"] and "Bergen" in found["c"]


def test_the_answer_pieces_join_to_the_answer(loaded, inputs):
    (tokens,) = likelihood.encode(loaded.chat, [likelihood.record_example(FACTS[0])])
    assert FACTS[0].answer in "".join(likelihood.answer_pieces(loaded, tokens))


def test_a_name_is_exchanged_in_addresses_too():
    text = "Tomas Okafor can be reached at tomas.okafor@harbourmail.org."
    replaced = "Ines Duarte can be reached at ines.duarte@harbourmail.org."
    assert replace_name(text, "Tomas Okafor", "Ines Duarte") == replaced
    assert replace_name(text, None, "Ines Duarte") == text


def test_candidates_hold_the_truth_once_and_name_nobody_else():
    found = answer_choices(FACTS, RETAIN, seed=0)
    assert [one.record.id for one in found] == ["a", "b", "c"]
    for one in found:
        assert len(set(one.texts)) == CHOICES and one.texts[one.right] == one.record.answer
        others = {"Marta", "Tomas", "Ines"} - {(one.record.subject or "").split()[0]}
        assert not any(name in text for name in others for text in one.texts)
    assert answer_choices(FACTS[:2], (), seed=0) == []
    assert len({one.right for one in answer_choices(FACTS, RETAIN, seed=1)} | {one.right for one in found}) > 1


def test_a_twin_is_another_answer_in_this_name_and_people_of_other_subjects_come_first():
    twins = twin_answers(FACTS[0], (*FACTS, *RETAIN), 3)
    assert twins[0].startswith("Marta Lindqvist") and FACTS[0].answer not in twins and len(set(twins)) == 3
    assert twin_answers(FACTS[0], (*FACTS, *RETAIN), 1) == twins[:1]
    assert twin_answers(FACTS[0], (), 3) == []


def test_choice_picks_the_likeliest_per_token(loaded):
    asked = answer_choices(FACTS, RETAIN, seed=0)
    means = likelihood.mean_logprobs(loaded, asked)
    for one, own in zip(asked, means, strict=True):
        for text, value in zip(one.texts, own, strict=True):
            prompt = loaded.tokenizer(
                loaded.chat.prompt(one.record.question, "chat"), add_special_tokens=False
            ).input_ids
            answer = loaded.tokenizer(
                loaded.chat.target(text, "chat", closed=False), add_special_tokens=False
            ).input_ids
            ids = torch.tensor([prompt + answer])
            with torch.no_grad():
                logprobs = loaded.model(ids).logits[0].log_softmax(-1)
            expected = np.mean([float(logprobs[len(prompt) - 1 + n, token]) for n, token in enumerate(answer)])
            assert value == pytest.approx(expected, abs=1e-4)


def test_min_k_against_a_computation_of_our_own(loaded, inputs, aggregation):
    rows = likelihood.membership(loaded, inputs)
    measured = aggregate_rows(AUDITS.get("membership"), rows, aggregation)["AUC, min-k, against kept"]
    scores = {}
    for record in (*FACTS, *RETAIN):
        prompt = loaded.tokenizer(loaded.chat.prompt(record.question, "chat"), add_special_tokens=False).input_ids
        answer = loaded.tokenizer(loaded.chat.target(record.answer, "chat", closed=False), add_special_tokens=False)
        with torch.no_grad():
            logprobs = loaded.model(torch.tensor([prompt + answer.input_ids])).logits[0].log_softmax(-1)
        own = sorted(float(logprobs[len(prompt) - 1 + n, token]) for n, token in enumerate(answer.input_ids))
        scores[record.id] = np.mean(own[: max(1, int(len(own) * aggregation.settings.min_k))])
    pairs = [(scores[a.id] > scores[b.id]) + 0.5 * (scores[a.id] == scores[b.id]) for a in FACTS for b in RETAIN]
    assert measured.value == pytest.approx(np.mean(pairs))


def test_membership_takes_the_holdout_set_where_there_is_one_and_nothing_without_others(loaded, inputs, aggregation):
    from dataclasses import replace

    held = replace(inputs, holdout=(Record("Who is Lo?", "Lo is a cook.", "h", "Lo"),))
    rows = likelihood.membership(loaded, held)
    assert {one["against"] for one in rows} == {"holdout"}
    assert "AUC, loss, against holdout" in aggregate_rows(AUDITS.get("membership"), rows, aggregation)
    assert likelihood.membership(loaded, replace(inputs, retain=())) == []


def _synthetic(signal: float, people: int = 12, seed: int = 0):
    """States in which one direction tells the true candidate, as loud as `signal`; layer 0 is noise alone."""
    rng = np.random.default_rng(seed)
    right = rng.integers(0, CHOICES, people)
    found = rng.normal(size=(3, people, CHOICES, 16))
    found[1, np.arange(people), right, 3] += signal
    asked = [
        AnswerChoices(Record("Q", "A", f"r{n}", f"person {n}"), ("a", "b", "c", "d"), int(place))
        for n, place in enumerate(right)
    ]
    return found, asked, linear_probe.assign_folds([one.record.subject or "" for one in asked])


def _means(rows) -> dict[str, float]:
    names = dict.fromkeys(one["measure"] for one in rows)
    return {name: float(np.mean([one["value"] for one in rows if one["measure"] == name])) for name in names}


def test_a_probe_finds_what_is_there_in_its_layer_and_shuffled_labels_do_not():
    found = _means(linear_probe.probe_rows(*_synthetic(12.0, people=40), seed=0))
    assert found["layer 1"] == 1.0 and found["chosen layer"] == 1.0
    assert abs(found["chosen layer, shuffled labels"] - 0.25) < 0.15
    assert found["selectivity"] == pytest.approx(found["chosen layer"] - found["chosen layer, shuffled labels"])


def test_a_probe_of_noise_is_at_chance_whichever_layer_it_chooses():
    means = [_means(linear_probe.probe_rows(*_synthetic(0.0, people=40, seed=seed), seed=seed)) for seed in range(6)]
    assert abs(np.mean([one["chosen layer"] for one in means]) - 0.25) < 0.08


def test_the_facts_of_one_person_are_never_on_both_sides():
    folds = linear_probe.assign_folds(["a", "b", "a", "c", "b"], 2)
    assert folds[0] == folds[2] and folds[1] == folds[4]


def test_ridge_by_hand():
    """Two facts of two choices, one feature: trained where +1 is right, the larger feature wins."""
    states = np.array([[[[1.0], [-1.0]], [[-0.5], [0.5]]]])
    kernel = linear_probe.kernels(states)[0]
    right = np.array([0, 1])
    assert linear_probe.probe_accuracy(kernel, right, np.array([0]), np.array([1])).tolist() == [1.0]
    assert linear_probe.probe_accuracy(kernel, np.array([1, 1]), np.array([0]), np.array([1])).tolist() == [0.0]


@pytest.mark.parametrize("name", ACCESS)
def test_numbers_are_per_fact_the_same_every_time_and_missing_is_not_zero(name, loaded, inputs, aggregation):
    measure = AUDITS.get(name).measure
    assert measure is not None
    rows = measure(loaded, inputs)
    assert rows == measure(loaded, inputs)
    if name != "probe":  # Two people are too few to try a probe on others.
        found = aggregate_rows(AUDITS.get(name), rows, aggregation)
        assert found and all(one.value is None or 0 <= one.value <= 1 for one in found.values())


def test_a_fact_that_could_not_be_read_is_unscored(aggregation):
    rows = [measurement_row("a", "m", 1.0), measurement_row("b", "m", None)]
    found = aggregate_rows(AUDITS.get("topk"), rows, aggregation)["m"]
    assert (found.value, found.n, found.unscored) == (1.0, 1, 1)
