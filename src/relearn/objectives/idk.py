"""IdkNLL: learn to decline (Maini et al. 2024, TOFU, arXiv 2401.06121, there "preference optimisation" or "idk").

    L = w mean NLL of refusals + mean NLL of retain rows

Means are over the answer tokens of the optimiser step, forget and retain apart; w is `forget_weight`, 1. Each forget
question gets one refusal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from relearn.objectives.limits import positive
from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts

_NEEDS: frozenset[Need] = frozenset({"forget"})


@dataclass(frozen=True)
class Idk:
    forget_weight: float = 1.0
    retain: Retain = field(default_factory=Retain)

    def __post_init__(self) -> None:
        positive(forget_weight=self.forget_weight)

    @property
    def needs(self) -> frozenset[Need]:
        return self.retain.needs | _NEEDS

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        parts = {"idk": batch.forget.mean_nll()}
        kept, kept_parts = retain_terms(self.retain, batch)
        return self.forget_weight * parts["idk"] + kept, parts | kept_parts


def _build(forget_weight: float, **retain: Any) -> Idk:
    return Idk(forget_weight, Retain(**retain))


METHODS.add(
    "idk_nll",
    Method(
        "idk_nll", "refusal", "Maini et al. 2024, arXiv 2401.06121", _build,
        {"forget_weight": 1.0, **RETAIN_DEFAULTS}, "refusals",
    ),
)  # fmt: skip
