"""Alignment of gradients against plain autograd, the seesaw by hand, the loss from the log."""

from __future__ import annotations

import pytest
import torch

import relearn
from people import people
from relearn.analysis.training_dynamics import alignment, dynamics, loss_parts, measure_alignment, seesaw
from relearn.core.files import write_jsonl
from relearn.engine.forward import predict
from relearn.unlearning.data.batches import Size
from relearn.unlearning.method import METHODS
from relearn.unlearning.reference_model import to_answer_logits
from relearn.unlearning.step import make_reference
from unlearning.toy import fresh, plan


def flat(model, rows, sign):
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    loss = (
        sign
        * to_answer_logits(
            predict(model, rows), rows, Size(sum(row.answer_tokens for row in rows), len(rows))
        ).mean_nll()
    )
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for w, g in zip(weights, found, strict=True)])


@pytest.mark.parametrize("lora", [True, False])
def test_alignment_is_the_cosine_of_plain_gradients(tiny_model_dir, lora):
    model = fresh(tiny_model_dir, lora=lora).eval()
    objective, batches = METHODS.get("grad_diff").objective({}), plan("grad_diff")[:2]
    found = alignment(model, objective, batches, make_reference(model, batches, objective))
    wanted = []
    for batch in batches:
        forget, retain = flat(model, batch.forget, -1), flat(model, batch.retain, 1)
        wanted.append(float(torch.nn.functional.cosine_similarity(forget, retain, dim=0)))
    assert found["cosines"] == pytest.approx(wanted, abs=1e-3)
    assert found["cosine"] == pytest.approx(sum(wanted) / 2, abs=1e-3)


def test_the_same_rows_pushed_down_and_held_pull_apart(tiny_model_dir):
    """Gradient ascent and NLL on the same rows are exact opposites."""
    from dataclasses import replace

    model = fresh(tiny_model_dir).eval()
    micro = plan("grad_diff")[0]
    batch = replace(micro, retain=micro.forget, step={name: micro.step["forget"] for name in ("forget", "retain")})
    objective = METHODS.get("grad_diff").objective({})
    found = alignment(model, objective, [batch], make_reference(model, [batch], objective))
    assert found["cosine"] == pytest.approx(-1, abs=1e-4)
    assert found["forget_norm"] == pytest.approx(found["retain_norm"], rel=1e-3)


def test_a_retain_term_without_a_gradient_has_no_cosine(tiny_model_dir):
    """KL to the start model is at its least there."""
    model = fresh(tiny_model_dir).eval()
    objective, batches = METHODS.get("ga").objective({}), plan("grad_diff")[:1]
    found = alignment(model, objective, batches, make_reference(model, batches, objective))
    assert found["cosine"] is None and found["retain_norm"] == 0 and found["forget_norm"] > 0


def test_the_multiplier_of_pdu_is_there_and_does_not_turn_its_gradient(tiny_model_dir):
    model = fresh(tiny_model_dir).eval()
    batches = plan("grad_diff")[:1]
    found = {}
    for lam in (1.0, 100.0):
        objective = METHODS.get("pdu").objective({"lam": lam})
        found[lam] = alignment(model, objective, batches, make_reference(model, batches, objective))
    assert found[1.0]["cosine"] is not None
    assert found[100.0]["cosine"] == pytest.approx(found[1.0]["cosine"], abs=1e-3)
    assert found[100.0]["retain_norm"] == pytest.approx(100 * found[1.0]["retain_norm"], rel=1e-3)


def test_seesaw_by_hand(tmp_path):
    assert seesaw(tmp_path) is None

    def row(id_, split, first, top):
        return {"id": id_, "split": split, "token": 7, "first": first, "mean": 0.5, "entropy": 1.0, "top": top}

    write_jsonl(
        tmp_path / "trajectory.jsonl",
        [
            {
                "step": 0,
                "rows": [
                    row("a", "forget", 0.8, [[7, 0.8], [1, 0.1], [2, 0.05]]),
                    row("b", "forget", 0.6, [[7, 0.6], [3, 0.3], [2, 0.05]]),
                ],
            },
            {
                "step": 5,
                "rows": [
                    row("a", "forget", 0.0, [[1, 0.9], [2, 0.1], [3, 0.0]]),
                    row("b", "forget", 0.2, [[3, 0.5], [7, 0.2], [2, 0.1]]),
                ],
            },
        ],
    )
    found = seesaw(tmp_path)
    assert found is not None and found["step"] == [0, 5]
    assert found["forget"]["true"] == [0.7, 0.1]
    assert found["forget"]["next_1"] == [0.2, 0.7]
    assert found["forget"]["next_2"] == [0.05, 0.1]


def test_the_loss_of_a_step_taken_twice_is_its_last(tmp_path):
    rows = [
        {"stage": "learn", "step": 1, "parts": {"gdf": 9.0}},
        {"stage": "unlearn", "step": 1, "parts": {"ga": -1.0, "gdr": 0.5}},
        {"stage": "unlearn", "step": 2, "parts": {"ga": -7.0, "gdr": 0.5}},
        {"stage": "unlearn", "step": 2, "parts": {"ga": -2.0, "gdr": 0.4}},
        {"stage": "unlearn", "step": 2, "score": 0.3, "kind": "evaluation"},
    ]
    write_jsonl(tmp_path / "log.jsonl", rows)
    assert loss_parts(tmp_path) == {"step": [1, 2], "parts": {"ga": [-1.0, -2.0], "gdr": [0.5, 0.4]}}


def test_a_finished_run_from_start_to_end(tiny_model_dir, tmp_path):
    private, public = people(tmp_path / "private.jsonl", "private", 3), people(tmp_path / "public.jsonl", "public", 3)
    values = {
        "model": {"name": str(tiny_model_dir)},
        "data": {"forget": private, "retain": public},
        "audit": "none",
        "unlearn": {"method": "grad_diff", "epochs": 4, "learning_rate": 1e-2, "lora": {"r": 2}, "trajectory": 2},
    }
    recipe = relearn.Recipe.from_mapping(values)
    folder = relearn.unlearn(recipe, tmp_path / "run").path
    found = dynamics(recipe, folder)
    assert found["notes"] == [] and set(found["alignment"]) == {"start", "end"}
    assert all(-1 <= found["alignment"][when]["cosine"] <= 1 for when in ("start", "end"))
    assert found["alignment"]["start"] != found["alignment"]["end"]
    assert found["seesaw"]["step"][0] == 0 and set(found["loss"]["parts"]) == {"ga", "gdr"}
    ascent = recipe.model_copy(update={"unlearn": recipe.unlearn.model_copy(update={"method": "ga"})})
    assert measure_alignment(ascent, folder) == (None, "ga has no retain term beside its forget term")
