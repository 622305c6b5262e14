"""SURE: only the weights that the forget loss leans on most are trained (Zhang et al., ICLR 2025, arXiv 2410.16454).

    theta <- theta_o + m * (theta - theta_o),   m_i = 1[ s_i >= gamma ],   s_i = ||d L_forget / d theta_i||_2

theta_i is a row of a weight matrix (one neuron), gamma the `percentile` of all rows of the same kind of tensor. The
paper takes one gamma for all; rows of LoRA's A and B, of embeddings and of plain matrices are of different scale.
L_forget is the NLL of the answers to be forgotten; at the start model the gradients of GA and NPO have its direction.

Paper: percentile 90 of rows, with a learning rate larger than without; code of the ReLearn paper 99. A row whose
saliency is zero never moves. `batches` and `warmup_steps` bound the passes spent on the saliency (see saliency.py);
with `every` it is taken again every so many steps, and rows that drop out stay where they have come to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from relearn.objectives.limits import not_negative
from relearn.training.masks.saliency import at_percentile, forget_groups, gradient, kinds, warmed_up
from relearn.unlearning.data.batches import MicroBatch
from relearn.unlearning.masks.mask import MASKS


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

    def find(self, model: Any, batches: Sequence[MicroBatch], *, start: bool) -> Mapping[str, torch.Tensor]:
        groups = forget_groups(batches, self.batches)
        with warmed_up(model, groups, self.warmup_steps if start else 0):
            norms = {name: row_norms(slope) for name, slope in gradient(model, groups).items()}
        return salient_rows(norms, kinds(model), self.percentile)


def check_percentile(value: float) -> None:
    not_negative(percentile=value)
    if value >= 100:
        raise ValueError(f"percentile is {value!r}: give a number below 100")


def check_counts(warmup_steps: int, batches: int, every: int | None) -> None:
    for name, value, least in (("warmup_steps", warmup_steps, 0), ("batches", batches, 1), ("every", every, 1)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"{name} is {value!r}: give a whole number of {least} or more")


def row_norms(slope: torch.Tensor) -> torch.Tensor:
    """(rows, ...) -> L2 norm of every row: (rows,). Each number of a vector is a row of its own."""
    return slope.flatten(1).norm(dim=1) if slope.ndim > 1 else slope.abs()


def salient_rows(
    norms: Mapping[str, torch.Tensor], kinds: Sequence[Sequence[str]], percentile: float
) -> dict[str, torch.Tensor]:
    """Rows at or above the percentile of their kind, and above zero: (rows,) bool by name."""
    moving = {}
    for names in kinds:
        limit = at_percentile(norms, names, percentile)
        moving |= {name: (norms[name].double() >= limit) & (norms[name] > 0) for name in names}
    return moving
