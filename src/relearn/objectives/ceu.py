"""CE-U, cross-entropy unlearning: teach what the model would say without the true token (Yang 2025, arXiv 2503.01224).

    L = w mean_t CE(q_t, P_theta) + retain terms
    q_t = softmax(z_t with the true token at -infinity), from the model's own logits z, without gradient

The gradient in the logits is P_theta - q: bounded, 0 once the true token is improbable. The first answer token of every
row is left out, as in the paper's experiments (a footnote of its training settings), so the mean is over the other
answer tokens of the optimiser step, step_tokens - step_rows of them; a row of one token counts nothing.

Defaults: w 1, no retain term (the paper's point is that it needs none).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from relearn.objectives.limits import positive
from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts
from relearn.unlearning.token_loss import Scored

_NEEDS: frozenset[Need] = frozenset({"forget"})


@dataclass(frozen=True)
class CEU:
    skip_first: bool = True
    forget_weight: float = 1.0
    retain: Retain = field(default_factory=lambda: Retain(0.0, 0.0))

    def __post_init__(self) -> None:
        positive(forget_weight=self.forget_weight)
        if not isinstance(self.skip_first, bool):
            raise ValueError(f"skip_first is {self.skip_first!r}: give true or false")

    @property
    def needs(self) -> frozenset[Need]:
        return self.retain.needs | _NEEDS

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        losses = batch.forget.per_token(without_truth)
        parts = {"ceu": _later_mean(batch.forget, losses) if self.skip_first else batch.forget.mean(losses)}
        kept, kept_parts = retain_terms(self.retain, batch)
        return self.forget_weight * parts["ceu"] + kept, parts | kept_parts


def without_truth(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """CE of the model against its own distribution with the true token left out: (c, V), (c,) -> (c,)."""
    wanted = logits.detach().scatter(1, targets[:, None], -math.inf).softmax(-1)
    return -(wanted * logits.log_softmax(-1)).sum(-1)


def _later_mean(scored: Scored, values: torch.Tensor) -> torch.Tensor:
    """(A,) -> this micro-batch's share of the step's mean over all but the first answer token of each row."""
    later = torch.zeros_like(scored.row, dtype=torch.bool)
    later[1:] = scored.row[1:] == scored.row[:-1]
    return values[later].sum() / max(scored.step_tokens - (scored.step_rows or scored.rows), 1)


def _build(skip_first: bool, forget_weight: float, **retain: Any) -> CEU:
    return CEU(skip_first, forget_weight, Retain(**retain))


_DEFAULTS = {"skip_first": True, "forget_weight": 1.0, **RETAIN_DEFAULTS, "retain_nll": 0.0}
METHODS.add(
    "ceu",
    Method("ceu", "reverse optimisation", "Yang 2025, arXiv 2503.01224", _build, _DEFAULTS, data="original"),
)
