"""Select weights with SURE: the rows with the largest forget gradients (Zhang et al., ICLR 2025, arXiv 2410.16454).

    theta <- theta_o + m * (theta - theta_o),   m_i = 1[ s_i >= gamma ],   s_i = ||d L_forget / d theta_i||_2

theta_i is a row of a weight matrix (one neuron), gamma the `percentile` of s over all rows of the same kind of tensor.
(The paper has one gamma for all, but LoRA's A and B, embeddings and other matrices differ in scale.) L_forget is the
NLL of the original answers that are to be forgotten, whatever the method trains on: where a method trains on vague
answers or refusals, their gradient shows the weights of the new answers. Rows with s_i = 0 never change. Paper:
percentile 90, with a larger learning rate than without a mask; the code of the ReLearn paper: 99. Gradients are
computed without dropout over at most `batches` micro-batches of the plan. In a fresh LoRA adapter B is zero, so every
gradient of A is zero: `warmup_steps` small steps are taken first, and undone exactly. With `every` the mask is found
again every `every` steps; rows that become frozen keep their current values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from relearn.core import distributed
from relearn.data.record import evenly
from relearn.engine.forward import TokenRow, predict
from relearn.engine.model_support import bare, evaluating
from relearn.unlearning.data.batches import MicroBatch, Size, distinct_rows
from relearn.unlearning.masks.mask import MASKS
from relearn.unlearning.options import not_negative
from relearn.unlearning.reference_model import to_answer_logits

# Finding a mask takes at most 1 / SHARE of the micro-batches of a training.
SHARE = 12
# Every weight changes by this in a warm-up step, as in Adam's first step. The exact value does not matter.
WARMUP_RATE = 1e-4

Groups = Sequence[Sequence[TokenRow]]


def forget_groups(batches: Sequence[MicroBatch], most: int, originals: Sequence[TokenRow] = ()) -> Groups:
    """Select rows of the answers to be forgotten, in at most `most` groups of a micro-batch's size.

    They are the `originals`; without them the rejected rows of the plan, or its forget rows if it has none.
    """
    ordered = sorted(originals, key=lambda row: row.id)
    return _groups(ordered or distinct_rows(batches, "rejected") or distinct_rows(batches, "forget"), batches, most)


def retain_groups(batches: Sequence[MicroBatch], most: int) -> Groups:
    """Select retain rows, in at most `most` groups of a micro-batch's size."""
    return _groups(distinct_rows(batches, "retain"), batches, most)


def gradient(model: Any, groups: Groups) -> dict[str, torch.Tensor]:
    """Compute the gradient of the mean token NLL over all rows of `groups`: float32, by name of the trained tensor.

    It does not change `.grad` or call its hooks. Several processes divide the groups between them.
    """
    weights = trained_weights(model)
    rows = [row for group in groups for row in group]
    size = Size(sum(row.answer_tokens for row in rows), len(rows))
    total = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    with evaluating(model), torch.enable_grad():
        for group in groups[distributed.rank() :: distributed.processes()]:
            loss = to_answer_logits(predict(model, group), group, size).mean_nll()
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, values in zip(weights, gradients, strict=True):
                if values is not None:
                    total[name] += values
    return _summed(total)


def _summed(total: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Sum the gradients over all processes."""
    if distributed.processes() > 1:
        distributed.join()
        for values in total.values():
            torch.distributed.all_reduce(values)
    return total


@contextmanager
def warmed_up(model: Any, groups: Groups, steps: int) -> Iterator[None]:
    """Take `steps` small steps on `groups` if a LoRA B is zero; restore the exact weights at the end of the block."""
    weights = trained_weights(model)
    fresh = any("lora_B" in name and not weight.any() for name, weight in weights.items())
    if not fresh or not steps:
        yield
        return
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        for group in itertools.islice(itertools.cycle(groups), steps):
            gradients = gradient(model, [group])
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.sub_(WARMUP_RATE * gradients[name].sign())
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


def trained_weights(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the tensors with `requires_grad`, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def kinds(model: Any) -> list[list[str]]:
    """Group the names of the trained tensors by scale: LoRA's A and B, embeddings, other matrices, vectors."""
    inner = bare(model)
    layers = [getattr(inner, f"get_{side}_embeddings", lambda: None)() for side in ("input", "output")]
    embeddings = {id(layer.weight) for layer in layers if layer is not None}
    groups: dict[str, list[str]] = {}
    for name, weight in trained_weights(model).items():
        lora = [part for part in name.split(".") if part.startswith("lora_")]
        plain = "embedding" if id(weight) in embeddings else "matrix" if weight.ndim > 1 else "vector"
        groups.setdefault(lora[0] if lora else plain, []).append(name)
    return list(groups.values())


def at_percentile(values: Mapping[str, torch.Tensor], names: Sequence[str], percentile: float) -> torch.Tensor:
    """Compute the percentile of all values of the tensors `names`, with linear interpolation: float64 scalar."""
    ordered = torch.cat([values[name].flatten() for name in names]).double().sort().values
    position = percentile / 100 * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)


def _groups(rows: Sequence[TokenRow], batches: Sequence[MicroBatch], most: int) -> Groups:
    """Select rows evenly from `rows`, which are sorted by id, and group them by similar length."""
    size = max(len(batch.forget) for batch in batches)
    count = min(len(rows), size * max(1, min(most, len(batches) // SHARE)))
    picked = sorted(evenly(rows, count), key=lambda row: len(row.ids))
    return [picked[at : at + size] for at in range(0, len(picked), size)]


@MASKS.register("sure")
@dataclass(frozen=True)
class Sure:
    percentile: float = 90.0
    warmup_steps: int = 2
    batches: int = 16
    every: int | None = None

    def __post_init__(self) -> None:
        check_percentile(self.percentile)
        check_counts(self.warmup_steps, self.batches, self.every)

    def find(
        self, model: Any, batches: Sequence[MicroBatch], *, originals: Sequence[TokenRow] = (), start: bool
    ) -> Mapping[str, torch.Tensor]:
        groups = forget_groups(batches, self.batches, originals)
        with warmed_up(model, groups, self.warmup_steps if start else 0):
            norms = {name: row_norms(values) for name, values in gradient(model, groups).items()}
        return salient_rows(norms, kinds(model), self.percentile)


def check_percentile(value: float) -> None:
    """Raise ValueError unless the value is a number of at least 0 and below 100."""
    not_negative(percentile=value)
    if value >= 100:
        raise ValueError(f"percentile is {value!r}: give a number below 100")


def check_counts(warmup_steps: int, batches: int, every: int | None) -> None:
    """Raise ValueError unless `warmup_steps` is an integer >= 0, and `batches` and `every` are integers >= 1."""
    for name, value, least in (("warmup_steps", warmup_steps, 0), ("batches", batches, 1), ("every", every, 1)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"{name} is {value!r}: give a whole number of {least} or more")


def row_norms(values: torch.Tensor) -> torch.Tensor:
    """Compute the L2 norm of every row of a tensor (rows, ...): (rows,). In a vector each number is a row."""
    return values.flatten(1).norm(dim=1) if values.ndim > 1 else values.abs()


def salient_rows(
    norms: Mapping[str, torch.Tensor], kinds: Sequence[Sequence[str]], percentile: float
) -> dict[str, torch.Tensor]:
    """Select the rows whose norm is above zero and at or above the percentile of their kind: (rows,) bool by name."""
    moving = {}
    for names in kinds:
        limit = at_percentile(norms, names, percentile)
        moving |= {name: (norms[name].double() >= limit) & (norms[name] > 0) for name in names}
    return moving
