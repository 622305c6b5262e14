"""From a micro-batch to what an objective needs: one pass over all its rows, and the reference beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from relearn.engine.forward import Predicted, TokenRow, predict
from relearn.engine.model_support import evaluating
from relearn.unlearning.data.batches import MicroBatch, Size, distinct_rows
from relearn.unlearning.method import Batch, Need, Objective, Parts
from relearn.unlearning.reference_model import Reference, mixed, mixed_losses, scored

_STREAMS = ("forget", "rejected", "mismatched", "original", "retain")


def make_reference(
    model: Any, batches: Sequence[MicroBatch], objective: Objective, *, autocast: bool = False
) -> Reference:
    """The start model run once over every row of the plan whose reference the objective needs."""

    return Reference(
        model,
        needed_rows(batches, objective, "_reference"),
        nll_rows=needed_rows(batches, objective, "_reference_nll"),
        layer_rows=needed_rows(batches, objective, "_states_reference"),
        layer=state_layer(objective),
        autocast=autocast,
    )


def needed_rows(batches: Sequence[MicroBatch], objective: Objective, suffix: str = "") -> list[TokenRow]:
    """Rows of the plan, each once, of every stream whose name with `suffix` the objective needs."""
    wanted = [stream for stream in _STREAMS if f"{stream}{suffix}" in objective.needs]
    return [row for stream in wanted for row in distinct_rows(batches, stream)]


def state_layer(objective: Objective) -> int | None:
    """The decoder layer whose states the objective wants, if any."""
    wants_states = any(need.endswith(("_states", "_states_reference")) for need in objective.needs)
    return getattr(objective, "layer") if wants_states else None  # noqa: B009


def freeze_unreached(
    model: Any,
    micro: MicroBatch,
    objective: Objective,
    reference: Reference,
    *,
    state: Mapping[str, float] | None = None,
) -> None:
    """Where the objective looks at the states of one layer, take weights above it out of the training.

    They get no gradient; data parallelism would wait for one.
    """
    if state_layer(objective) is None:
        return
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with evaluating(model):
        loss, _ = objective(observe(model, micro, objective, reference, state=state))
        reached = torch.autograd.grad(loss, weights, allow_unused=True)
    for weight, gradient in zip(weights, reached, strict=True):
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
    """One forward over the rows of all streams the objective needs, in one pack, split by stream."""
    needs = objective.needs
    rows = {name: own for name, own in micro.streams().items() if name in needs}
    device = next(model.parameters()).device
    with mixed(device, autocast):
        seen = predict(model, [row for own in rows.values() for row in own], layer=state_layer(objective))
    parts = dict(zip(rows, _split(seen, rows), strict=True))
    given: dict[str, Any] = {name: scored(parts[name], own, micro.step[name]) for name, own in rows.items()}
    for name, own in rows.items():
        given |= _beside(name, own, needs, reference, micro.step[name])
        if f"{name}_states" in needs:
            given[f"{name}_states"] = parts[name].layer
    return Batch(**given, state=state or {})


def step_loss(
    model: Any,
    micro: MicroBatch,
    objective: Objective,
    reference: Reference,
    *,
    state: Mapping[str, float] | None = None,
    autocast: bool = False,
) -> tuple[torch.Tensor, Parts]:
    """The objective's loss on one micro-batch, with its named parts."""
    seen = observe(model, micro, objective, reference, state=state, autocast=autocast)
    with mixed_losses(autocast):
        return objective(seen)


def _beside(
    name: str, rows: tuple[TokenRow, ...], needs: frozenset[Need], reference: Reference, step: Size
) -> dict[str, Any]:
    """What the start model says about the rows of one stream, as far as it is needed."""
    found: dict[str, Any] = {}
    if f"{name}_reference" in needs:
        found[f"{name}_reference"] = reference.scored(rows, step)
    if f"{name}_reference_nll" in needs:
        found[f"{name}_reference_nll"] = reference.row_nll(rows)
    if f"{name}_states_reference" in needs:
        found[f"{name}_states_reference"] = reference.layer_states(rows)
    return found


def _split(seen: Predicted, rows: Mapping[str, Sequence[TokenRow]]) -> list[Predicted]:
    sizes = [sum(row.answer_tokens for row in own) for own in rows.values()]

    def cut(tensor: torch.Tensor | None) -> Sequence[torch.Tensor | None]:
        return tensor.split(sizes) if tensor is not None else [None] * len(sizes)

    return [
        Predicted(logits, states, seen.head, layer)
        for logits, states, layer in zip(cut(seen.logits), cut(seen.states), cut(seen.layer), strict=True)
    ]
