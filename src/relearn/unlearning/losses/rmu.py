"""RMU: states of forget rows are driven in one random direction, those of retain rows stay where they were.

Representation misdirection for unlearning (Li et al. 2024, WMDP, arXiv 2403.03218).

    L = mean || h_l(x_f) - c u ||^2 / width + alpha mean || h_l(x_r) - h_l^ref(x_r) ||^2 / width

h_l are the states after decoder layer l, counted from 0 as in the public code; a negative l counts from the end. u is
drawn from U[0,1)^width, normalised to length 1, and the same for the whole run.

The means are over the answer tokens of the optimiser step, forget and retain apart. The states of an answer token are
those at the position that PREDICTS it: from the last token of the prompt to the last but one of the answer. (The paper
takes every token of a document, OpenUnlearning the answer tokens' own positions, one place later.)

c and alpha go with the size of the states, so they change with model and layer: the defaults are OpenUnlearning's, the
paper has c 6.5 and alpha 1200 for Zephyr-7B. Only layers up to l get a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts, not_negative, positive


@dataclass(frozen=True)
class Misdirection:
    """`layer` is l, `coefficient` is c; `seed` draws u. With alpha 0 the retain term and its passes are left out."""

    layer: int = 7
    coefficient: float = 2.0
    alpha: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.layer, int) or isinstance(self.layer, bool):
            raise ValueError(f"layer is {self.layer!r}: give the number of a decoder layer, from 0 or from -1 down")
        positive(coefficient=self.coefficient)
        not_negative(alpha=self.alpha)

    @property
    def needs(self) -> frozenset[Need]:
        forget: set[Need] = {"forget", "forget_states"}
        retain: set[Need] = {"retain", "retain_states", "retain_states_reference"}
        return frozenset(forget | retain if self.alpha else forget)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        assert batch.forget_states is not None
        states = _wide(batch.forget_states)
        aim = self.coefficient * direction(states.shape[-1], self.seed).to(states)
        parts = {"misdirection": batch.forget.mean((states - aim).square().mean(-1))}
        loss = parts["misdirection"]
        if self.alpha and batch.retain is not None:
            assert batch.retain_states is not None and batch.retain_states_reference is not None
            moved = _wide(batch.retain_states) - _wide(batch.retain_states_reference)
            parts["drift"] = batch.retain.mean(moved.square().mean(-1))
            loss = loss + self.alpha * parts["drift"]
        return loss, parts


@lru_cache
def direction(width: int, seed: int) -> torch.Tensor:
    """u: (width,) float64 on the CPU, so that every device and number format gets the same one."""
    drawn = torch.rand(width, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float64, device="cpu")
    return drawn / drawn.norm()


def _wide(states: torch.Tensor) -> torch.Tensor:
    """At least float32: squares of half-precision states lose too much."""
    return states if states.dtype == torch.float64 else states.float()


METHODS.add(
    "rmu",
    Method(
        "rmu",
        "representation",
        "Li et al. 2024, arXiv 2403.03218",
        Misdirection,
        {"layer": 7, "coefficient": 2.0, "alpha": 1.0, "seed": 0},
        "original",
    ),
)
