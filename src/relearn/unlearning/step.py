"""Compute the loss of a micro-batch with one forward pass over its rows and the start model's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from relearn.engine.forward import Predicted, TokenRow, predict
from relearn.engine.model_support import evaluating
from relearn.unlearning.data.batches import MicroBatch, distinct_rows
from relearn.unlearning.method import INPUTS, Batch, InputKind, LossTerms, Objective
from relearn.unlearning.reference_model import Reference, mixed, mixed_losses, to_answer_logits


def make_reference(
    model: Any, batches: Sequence[MicroBatch], objective: Objective, *, autocast: bool = False
) -> Reference:
    """Compute the start model's predictions on every row of the plan for which the objective needs them."""
    return Reference(
        model,
        needed_rows(batches, objective, "reference"),
        nll_rows=needed_rows(batches, objective, "reference_nll"),
        layer_rows=needed_rows(batches, objective, "states_reference"),
        layer=objective.layer,
        autocast=autocast,
    )


def needed_rows(batches: Sequence[MicroBatch], objective: Objective, kind: InputKind) -> list[TokenRow]:
    """List the rows of the plan, each once, for which the objective takes this kind of input."""
    return [row for stream in objective.needed_streams(kind) for row in distinct_rows(batches, stream)]


def freeze_unreached(
    model: Any,
    micro: MicroBatch,
    objective: Objective,
    reference: Reference,
    *,
    state: Mapping[str, float] | None = None,
) -> None:
    """Freeze the weights above the layer whose states the objective takes.

    They get no gradient, and distributed data parallel training waits for the gradient of every trainable weight.
    """
    if objective.layer is None:
        return
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with evaluating(model):
        loss, _ = objective(observe(model, micro, objective, reference, state=state))
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.requires_grad_(gradient is not None)


def observe(
    model: Any,
    micro: MicroBatch,
    objective: Objective,
    reference: Reference,
    *,
    state: Mapping[str, float] | None = None,
    autocast: bool = False,
) -> Batch:
    """Compute the inputs of the objective on one micro-batch, with one forward pass over all streams it needs."""
    needs = objective.needs
    rows = {stream: own for stream, own in micro.streams().items() if stream in needs}
    device = next(model.parameters()).device
    with mixed(device, autocast):
        predicted = predict(model, [row for own in rows.values() for row in own], layer=objective.layer)
    parts = dict(zip(rows, _split(predicted, rows), strict=True))
    read = {
        "logits": lambda stream: to_answer_logits(parts[stream], rows[stream], micro.step[stream]),
        "reference": lambda stream: reference.answer_logits(rows[stream], micro.step[stream]),
        "reference_nll": lambda stream: reference.row_nll(rows[stream]),
        "states": lambda stream: parts[stream].layer,
        "states_reference": lambda stream: reference.layer_states(rows[stream]),
    }
    inputs = {name: INPUTS[name] for name in sorted(needs)}
    values = {name: read[kind](stream) for name, (stream, kind) in inputs.items() if stream in rows}
    return Batch(**values, state=state or {})


def step_loss(
    model: Any,
    micro: MicroBatch,
    objective: Objective,
    reference: Reference,
    *,
    state: Mapping[str, float] | None = None,
    autocast: bool = False,
) -> tuple[torch.Tensor, LossTerms]:
    """Compute the objective's loss on one micro-batch, and its named loss terms."""
    batch = observe(model, micro, objective, reference, state=state, autocast=autocast)
    with mixed_losses(autocast):
        return objective(batch)


def _split(predicted: Predicted, rows: Mapping[str, Sequence[TokenRow]]) -> list[Predicted]:
    sizes = [sum(row.answer_tokens for row in own) for own in rows.values()]

    def split(tensor: torch.Tensor | None) -> Sequence[torch.Tensor | None]:
        return tensor.split(sizes) if tensor is not None else [None] * len(sizes)

    return [
        Predicted(logits, states, predicted.head, layer)
        for logits, states, layer in zip(
            split(predicted.logits), split(predicted.states), split(predicted.layer), strict=True
        )
    ]
