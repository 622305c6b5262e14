"""Relearning in folds: who is trained on, who is asked, when a curve ends, and when stored answers are asked again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relearn.audits.attack import AUDITS, AuditInputs
from relearn.audits.attacks import weights
from relearn.audits.query_models import ask_changed_models
from relearn.audits.scoring import AuditScorer
from relearn.audits.strength import QUICK, STRENGTHS, Relearning, find_strength
from relearn.core.config import Model
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.engine.generate import Response
from relearn.models.load import load


@pytest.fixture
def folded(inputs, tiny_model_dir) -> AuditInputs:
    facts = [
        Record(f"Where is number {n} hidden?", f"It is hidden in Vexholm{n} 7{n}3.", f"f{n}", None) for n in range(6)
    ]
    training = Relearning(rate=1e-3, steps=(1, 2, 3), folds=2)
    return replace(inputs, facts=facts, strength=replace(QUICK, relearning=(training,)))


def asked_rows(folded: AuditInputs, tiny_model_dir, monkeypatch, answer):
    """Run the attack with the answers of the function `answer` (prompt -> text)."""
    monkeypatch.setattr(
        "relearn.audits.query_models.generate_answers",
        lambda _loaded, prompts, _settings, seed: [Response(answer(prompt)) for prompt in prompts],
    )
    spec = Model(name=str(tiny_model_dir))
    return ask_changed_models(lambda: load(spec), AUDITS.get("relearning"), folded, folded.retain[:1])


def test_only_the_held_out_fold_is_asked_after_every_step(folded, tiny_model_dir, monkeypatch):
    rows = asked_rows(folded, tiny_model_dir, monkeypatch, lambda prompt: "I cannot say.")
    facts = [row for row in rows if row["part"] == "fact"]
    assert {row["variant"] for row in facts} == {"0.001, 1 steps", "0.001, 2 steps", "0.001, 3 steps"}
    for variant in {row["variant"] for row in facts}:
        # Folds 0 and 1 of five: facts 0 and 5, then fact 1.
        assert [row["id"] for row in facts if row["variant"] == variant] == ["f0", "f5", "f1"]
    kept = [row for row in rows if row["part"] == "kept"]
    assert len(kept) == 3, "the retain record is asked in the first fold alone, once per step"


def test_a_curve_ends_when_all_its_facts_are_back_and_later_steps_have_its_answers(folded, tiny_model_dir, monkeypatch):
    asked: list[str] = []
    truth = {fact.id: fact.answer for fact in folded.facts}

    def answer(prompt):
        asked.append(f"{prompt.id} {prompt.variant}")
        return truth.get(prompt.id, "") if "2 steps" in prompt.variant else "No idea."

    rows = asked_rows(folded, tiny_model_dir, monkeypatch, answer)
    assert not [one for one in asked if "3 steps" in one], "nothing is trained or asked after the end"
    last = {row["id"]: row["answer"] for row in rows if row["variant"] == "0.001, 3 steps" and row["part"] == "fact"}
    assert last == {key: truth[key] for key in ("f0", "f5", "f1")}
    assert len({row["key"] for row in rows}) == len(rows)
    scorer = AuditScorer(folded, folded.retain[:1], judges=None)
    after = [row for row in rows if row["part"] == "fact"]
    result = scorer.result(AUDITS.get("relearning"), {"start": [], "after": after, "control": []}, None)
    assert result.matches.variants_back("f0") == ["0.001, 2 steps", "0.001, 3 steps"]
    assert result.matches.variants_back("f2") == []


def test_full_fine_tuning_trains_all_weights_and_the_own_rate_is_the_recipes(folded, tiny_model_dir, monkeypatch):
    training = (Relearning(rate=None, steps=(1,), folds=1), Relearning(rate=1e-5, steps=(1,), folds=1, full=True))
    strong = replace(folded, strength=replace(QUICK, relearning=training))
    trained: list[tuple[bool, float]] = []
    real = weights.train

    def watch(model, *args, loop, **more):
        trained.append((all(weight.requires_grad for weight in model.parameters()), loop.learning_rate))
        real(model, *args, loop=loop, **more)

    monkeypatch.setattr(weights, "train", watch)
    rows = asked_rows(strong, tiny_model_dir, monkeypatch, lambda prompt: "No.")
    assert trained == [(False, strong.recipe.unlearn.learning_rate), (True, 1e-5)]
    assert {row["variant"] for row in rows} == {"own rate, 1 steps", "1e-05, all weights, 1 steps"}


def test_the_strengths_grow():
    quick, standard, full = STRENGTHS.values()
    assert set(quick.attacks) < set(standard.attacks) <= set(AUDITS) and full.attacks is None
    assert quick.samples < standard.samples < full.samples
    assert set(quick.completion_shares) <= set(standard.completion_shares) <= set(full.completion_shares)
    assert set(standard.relearning) < set(full.relearning)
    with pytest.raises(InputError, match="did you mean 'quick'"):
        find_strength("quik")
