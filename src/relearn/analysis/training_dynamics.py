"""Analyse a finished training: probability seesaw, loss by part, and alignment of forget and retain gradients.

Alignment is the cosine between the gradients of a method's forget term and its retain term with respect to the trained
weights, on a few micro-batches of the training plan. 1: both terms have the same direction; -1: opposite directions. At
the start of training B of a LoRA adapter is zero, so A has no gradient and the cosine is over B alone.
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
from relearn.core.run_dir import RunFolder
from relearn.data import Record
from relearn.data.record import evenly
from relearn.data.validation import load_all
from relearn.engine.model_support import evaluating
from relearn.inference.run_models import ModelSet, put_adapter
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
_RETAIN_FIELDS = ("retain", "retain_states")
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
    """Average trajectory.jsonl over the rows of each split at every step; None if the training wrote none.

    `true`: probability of the true token at the first answer position. `answer`: mean probability of the true token
    over all answer positions. `next_1`, `next_2`: probabilities of the two likeliest other tokens at that step.
    `entropy`: in nats.
    """
    steps = RunFolder(folder).rows(FILE, torn=True)
    if not steps:
        return None
    splits = dict.fromkeys(row["split"] for row in steps[0]["rows"])
    return {"step": [one["step"] for one in steps]} | {
        split: _step_means([[row for row in one["rows"] if row["split"] == split] for one in steps]) for split in splits
    }


def _step_means(steps: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, list[float]]:
    means: dict[str, list[float]] = {"true": [], "answer": [], "next_1": [], "next_2": [], "entropy": []}
    for rows in steps:
        others = [[prob for token, prob in row["top"] if token != row["token"]] for row in rows]
        columns = {
            "true": [row["first"] for row in rows],
            "answer": [row["mean"] for row in rows],
            "next_1": [probs[0] for probs in others],
            "next_2": [probs[1] for probs in others],
            "entropy": [row["entropy"] for row in rows],
        }
        for name, column in columns.items():
            means[name].append(round(statistics.mean(column), 6))
    return means


def loss_parts(folder: Path) -> dict[str, Any]:
    """Read each part of the unlearning loss by step from log.jsonl; for a repeated step, the last row is used."""
    rows = RunFolder(folder).log_rows
    last = {row["step"]: row for row in rows if row.get("stage") == "unlearn" and row.get("parts")}
    steps = sorted(last)
    names = dict.fromkeys(name for step in steps for name in last[step]["parts"])
    return {"step": steps, "parts": {name: [last[step]["parts"].get(name) for step in steps] for name in names}}


def alignment(model: Any, objective: Objective, batches: Sequence[MicroBatch], reference: Any) -> dict[str, Any]:
    """Compute the cosine of forget and retain gradients per micro-batch, its mean, and mean norms; keeps `.grad`."""
    cosines, norms = [], []
    for batch in batches:
        forget = _gradient(model, objective, batch, reference, of_retain=False)
        retain = _gradient(model, objective, batch, reference, of_retain=True)
        norms.append((float(forget.norm()), float(retain.norm())))
        product = norms[-1][0] * norms[-1][1]
        cosines.append(float(forget @ retain) / product if product else None)
    defined = [cosine for cosine in cosines if cosine is not None]
    return {
        "cosine": round(statistics.mean(defined), 4) if defined else None,
        "cosines": [None if cosine is None else round(cosine, 4) for cosine in cosines],
        "forget_norm": round(statistics.mean(norm for norm, _ in norms), 6),
        "retain_norm": round(statistics.mean(norm for _, norm in norms), 6),
    }


def _gradient(model: Any, objective: Objective, batch: MicroBatch, reference: Any, *, of_retain: bool) -> torch.Tensor:
    """Compute the gradient of the retain rows alone (`of_retain`) or of all other rows, flattened to float64."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with evaluating(model):
        inputs = observe(model, batch, objective, reference, state=objective.initial_state)
        loss, _ = objective(_detach_others(inputs, of_retain))
    if not loss.requires_grad:
        return torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.float64, device=weights[0].device)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten().double() for gradient in gradients])


def _detach_others(batch: Batch, of_retain: bool) -> Batch:
    """Detach all tensors except those of the retain rows (`of_retain`), else only those of the retain rows."""
    changed = {}
    for name, value in vars(batch).items():
        if (name in _RETAIN_FIELDS) == of_retain:
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


def measure_alignment(recipe: Recipe, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Compute the alignment at the start and end of unlearning; returns (None, reason) if it cannot be computed."""
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
    material = _training_data(recipe, folder)
    if not material.retain:
        return None, "there are no retain rows"
    alignments = {}
    for when, model, loaded in _start_and_end(recipe, folder):
        plan = unlearn_batches(loaded.chat, method, material, settings=settings, seed=recipe.seed)
        batches = evenly(plan, BATCHES)
        alignments[when] = alignment(model, objective, batches, make_reference(model, batches, objective))
        del model, loaded
    return alignments, ""


def _start_and_end(recipe: Recipe, folder: Path) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, model, loaded) with a new adapter, then with the trained one, with one model in memory at a time."""
    loaded = ModelSet.of_run(recipe, folder).start()
    yield "start", add_lora(loaded.model, recipe.unlearn.lora, seed=recipe.seed), loaded
    loaded = put_adapter(ModelSet.of_run(recipe, folder).start(), folder / "adapter")
    for name, weight in loaded.model.named_parameters():
        weight.requires_grad_("lora_" in name)
    yield "end", loaded.model, loaded


def _training_data(recipe: Recipe, folder: Path) -> TrainingData:
    """Load the training data of a run: records, synthesised rows, and generated records if it has no retain set."""
    data, run = load_all(recipe.data), RunFolder(folder)
    retain = data.retain or tuple(Record(**row) for row in run.neighbour_rows)
    return TrainingData(data.forget, [TrainingRow(**row) for row in run.synthesis_rows], retain)


def dynamics(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Compute the content of analysis/dynamics.json; `notes` list what was not measured, with the reason."""
    try:
        alignments, why = measure_alignment(recipe, folder)
    except InputError as error:
        alignments, why = None, str(error)
    notes = [f"alignment: {why}"] if why else []
    trajectory = seesaw(folder)
    if trajectory is None:
        notes.append("seesaw: the training wrote no trajectory (unlearn.trajectory is 0)")
    return {"seesaw": trajectory, "alignment": alignments, "loss": loss_parts(folder), "notes": notes}
