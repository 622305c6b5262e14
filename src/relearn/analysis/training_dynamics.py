"""Training seen afterwards: the probability seesaw, the loss by part, and whether forgetting and keeping pull together.

Alignment is the cosine between the gradients of a method's forget and retain terms in the trained weights, on a few
micro-batches of its own plan: 1 where both want the same step, -1 where each undoes the other. At the start of a LoRA
adapter B is zero, so that A has no gradient and the cosine is over B alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.run_dir import read_jsonl
from relearn.data import Record
from relearn.data.record import evenly
from relearn.data.validation import load_all
from relearn.engine.model_support import evaluating
from relearn.inference.run_models import RunModels, put_adapter
from relearn.models.lora import add_lora
from relearn.synthesis.rows import TrainingRow
from relearn.unlearning.callbacks import FILE
from relearn.unlearning.data.batches import MicroBatch
from relearn.unlearning.data.streams import TrainingData
from relearn.unlearning.method import METHODS, Batch, Objective
from relearn.unlearning.step import make_reference, observe
from relearn.unlearning.token_loss import AnswerLogits
from relearn.unlearning.train import unlearn_batches

BATCHES = 4
_KEPT = ("retain", "retain_states")
_PLAIN_DATA = (
    "original",
    "synthesised",
    "original_beside_synthesised",
    "refusals",
    "preferred_refusals",
    "preferred_synthesised",
    "mismatched",
)


def seesaw(folder: Path) -> dict[str, Any] | None:
    """By split, means over the rows of trajectory.jsonl at every step; None where the training wrote none.

    `true`: probability of the true token at the first answer position, `answer`: mean over the answer's positions;
    `next_1`, `next_2`: the likeliest tokens beside the true one, whichever they are at that step; `entropy` in nats.
    """
    path = folder / FILE
    steps = read_jsonl(path, torn=True) if path.exists() else []
    if not steps:
        return None
    splits = dict.fromkeys(row["split"] for row in steps[0]["rows"])
    return {"step": [one["step"] for one in steps]} | {
        split: _over([[row for row in one["rows"] if row["split"] == split] for one in steps]) for split in splits
    }


def _over(steps: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"true": [], "answer": [], "next_1": [], "next_2": [], "entropy": []}
    for rows in steps:
        beside = [[chance for token, chance in row["top"] if token != row["token"]] for row in rows]
        values = {
            "true": [row["first"] for row in rows],
            "answer": [row["mean"] for row in rows],
            "next_1": [chances[0] for chances in beside],
            "next_2": [chances[1] for chances in beside],
            "entropy": [row["entropy"] for row in rows],
        }
        for name, column in values.items():
            found[name].append(round(statistics.mean(column), 6))
    return found


def loss_parts(folder: Path) -> dict[str, Any]:
    """Every part of the unlearning loss over its steps; a step that was taken twice counts as it was last."""
    path = folder / "log.jsonl"
    rows = read_jsonl(path, torn=True) if path.exists() else []
    last = {row["step"]: row for row in rows if row.get("stage") == "unlearn" and row.get("parts")}
    steps = sorted(last)
    names = dict.fromkeys(name for step in steps for name in last[step]["parts"])
    return {"step": steps, "parts": {name: [last[step]["parts"].get(name) for step in steps] for name in names}}


def alignment(model: Any, objective: Objective, batches: Sequence[MicroBatch], reference: Any) -> dict[str, Any]:
    """Cosine of the two gradients on every micro-batch, their mean, and the mean norms. Leaves `.grad` as it is."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    cosines, sizes = [], []
    for batch in batches:
        forget, retain = (_flat(model, weights, objective, batch, reference, kept=kept) for kept in (False, True))
        sizes.append((float(forget.norm()), float(retain.norm())))
        product = sizes[-1][0] * sizes[-1][1]
        cosines.append(float(forget @ retain) / product if product else None)
    known = [cosine for cosine in cosines if cosine is not None]
    return {
        "cosine": round(statistics.mean(known), 4) if known else None,
        "cosines": [None if cosine is None else round(cosine, 4) for cosine in cosines],
        "forget_norm": round(statistics.mean(size for size, _ in sizes), 6),
        "retain_norm": round(statistics.mean(size for _, size in sizes), 6),
    }


def _flat(
    model: Any, weights: Sequence[torch.Tensor], objective: Objective, micro: MicroBatch, reference: Any, *, kept: bool
) -> torch.Tensor:
    """The gradient of the loss through the retain rows alone, or through all others: (weights,) float64."""
    with evaluating(model):
        loss, _ = objective(_through(observe(model, micro, objective, reference), kept))
    if not loss.requires_grad:
        return torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.float64, device=weights[0].device)
    slopes = torch.autograd.grad(loss, list(weights), allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(weight) if slope is None else slope).flatten().double()
            for weight, slope in zip(weights, slopes, strict=True)
        ]
    )


def _through(batch: Batch, kept: bool) -> Batch:
    """The same numbers; the gradient flows through the retain rows (`kept`) or through the others."""
    changed = {}
    for name, value in vars(batch).items():
        if (name in _KEPT) == kept:
            continue
        if isinstance(value, AnswerLogits):
            changed[name] = replace(
                value,
                logits=None if value.logits is None else value.logits.detach(),
                states=None if value.states is None else value.states.detach(),
            )
        elif isinstance(value, torch.Tensor):
            changed[name] = value.detach()
    return replace(batch, **changed)


def aligned(recipe: Recipe, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Alignment at the start of the unlearning and at its end, or None and why it was not measured."""
    settings = recipe.unlearn
    if settings.method not in METHODS:
        return None, f"{settings.method} comes from a plug-in that is not loaded"
    method = METHODS.get(settings.method)
    objective = method.objective(settings.options)
    if not {"forget", "retain"} <= objective.needs:
        return None, f"{settings.method} has no retain term beside its forget term"
    if not (folder / "adapter" / "adapter_config.json").exists() or method.procedure != "train":
        return None, "only a LoRA adapter made by one training is looked at"
    if method.source(settings.options) not in _PLAIN_DATA:
        return None, f"data of {settings.method} are not made again here"
    material = _material(recipe, folder)
    if not material.retain:
        return None, "there are no retain rows"
    found = {}
    for when, model, loaded in _both_ends(recipe, folder):
        plan = unlearn_batches(loaded.chat, method, material, settings=settings, seed=recipe.seed)
        batches = evenly(plan, BATCHES)
        found[when] = alignment(model, objective, batches, make_reference(model, batches, objective))
        del model, loaded
    return found, ""


def _both_ends(recipe: Recipe, folder: Path) -> Iterator[tuple[str, Any, Any]]:
    loaded = RunModels(recipe, folder).start()
    yield "start", add_lora(loaded.model, recipe.unlearn.lora, seed=recipe.seed), loaded
    loaded = put_adapter(RunModels(recipe, folder).start(), folder / "adapter")
    for name, weight in loaded.model.named_parameters():
        weight.requires_grad_("lora_" in name)
    yield "end", loaded.model, loaded


def _material(recipe: Recipe, folder: Path) -> TrainingData:
    data = load_all(recipe.data)
    written, neighbours = folder / "synthesis.jsonl", folder / "neighbours.jsonl"
    retain = data.retain or (tuple(Record(**row) for row in read_jsonl(neighbours)) if neighbours.exists() else ())
    rows = [TrainingRow(**row) for row in read_jsonl(written)] if written.exists() else ()
    return TrainingData(data.forget, rows, retain)


def dynamics(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """All of it for one run, as it goes into analysis/dynamics.json; `notes` say what was not measured, and why."""
    try:
        pulled, why = aligned(recipe, folder)
    except InputError as error:
        pulled, why = None, str(error)
    notes = [f"alignment: {why}"] if why else []
    found = seesaw(folder)
    if found is None:
        notes.append("seesaw: the training wrote no trajectory (unlearn.trajectory is 0)")
    return {"seesaw": found, "alignment": pulled, "loss": loss_parts(folder), "notes": notes}
