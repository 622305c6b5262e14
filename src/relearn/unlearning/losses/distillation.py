"""UNDIAL: distil the start model with the true token's logit lowered (Dong et al. 2024, arXiv 2402.10052).

    L = w mean_t CE( softmax(z0_t - b 1[y_t]), P_theta ) + retain terms         z0: logits of the start model

The target stands still, so training converges instead of running away. The mean is over answer tokens; public code also
takes prompt and padding positions, with the label -100 as an index.

Defaults: b 10, w 1, no retain term (OpenUnlearning's UNDIAL.yaml: beta 10, alpha 0).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from relearn.objectives.limits import not_negative, positive
from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts
from relearn.unlearning.token_loss import TokenValue

_NEEDS: frozenset[Need] = frozenset({"forget", "forget_reference"})


@dataclass(frozen=True)
class UNDIAL:
    beta: float = 10.0
    forget_weight: float = 1.0
    retain: Retain = field(default_factory=lambda: Retain(0.0, 0.0))

    def __post_init__(self) -> None:
        not_negative(beta=self.beta)
        positive(forget_weight=self.forget_weight)

    @property
    def needs(self) -> frozenset[Need]:
        return self.retain.needs | _NEEDS

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        assert batch.forget_reference is not None
        losses = batch.forget.per_token(_towards_lowered(self.beta), batch.forget_reference)
        parts = {"undial": batch.forget.mean(losses)}
        kept, kept_parts = retain_terms(self.retain, batch)
        return self.forget_weight * parts["undial"] + kept, parts | kept_parts


def _towards_lowered(beta: float) -> TokenValue:
    def value(logits: torch.Tensor, targets: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        truth = targets[:, None]
        wanted = reference.scatter(1, truth, reference.gather(1, truth) - beta).softmax(-1)
        return -(wanted * logits.log_softmax(-1)).sum(-1)

    return value


def _build(beta: float, forget_weight: float, **retain: Any) -> UNDIAL:
    return UNDIAL(beta, forget_weight, Retain(**retain))


_DEFAULTS = {"beta": 10.0, "forget_weight": 1.0, **RETAIN_DEFAULTS, "retain_nll": 0.0}
METHODS.add(
    "undial",
    Method("undial", "reverse optimisation", "Dong et al. 2024, arXiv 2402.10052", _build, _DEFAULTS, data="original"),
)
