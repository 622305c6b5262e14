"""JensUn: refusals learned, and the rest held, by Jensen-Shannon divergence (Singh et al. 2025, arXiv 2509.02820).

    L = g mean JSD( P_theta || one-hot of the refusal's token ) + a mean JSD( P_theta || P_theta0 ) on retain rows
    JSD(P || Q) = 1/2 KL(P || M) + 1/2 KL(Q || M),  M = (P + Q) / 2

Natural logarithms, so a divergence is at most ln 2, and an NLL has no bound. Means are over the answer tokens of the
optimiser step; g is `forget_weight`, a is `retain_jsd`. Against a one-hot only p, its token's probability, counts:

    JSD = ln 2 + 1/2 [ p ln p - (1 + p) ln(1 + p) ]

The public code lays the tokens of "No Idea" over every position of the question with its original answer, with
probability 1 for both tokens at once, so that its target is no distribution. Here the question is followed by a refusal
and each token of that is the target of its own position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from relearn.objectives.limits import not_negative, positive
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts
from relearn.unlearning.token_loss import nll


@dataclass(frozen=True)
class JensUn:
    """With `retain_jsd` 0 the retain term and its passes are left out."""

    forget_weight: float = 1.0
    retain_jsd: float = 1.0

    def __post_init__(self) -> None:
        positive(forget_weight=self.forget_weight)
        not_negative(retain_jsd=self.retain_jsd)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"forget", "retain", "retain_reference"} if self.retain_jsd else {"forget"})

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        parts = {"refusal_jsd": batch.forget.mean(batch.forget.per_token(one_hot_jsd))}
        loss = self.forget_weight * parts["refusal_jsd"]
        if self.retain_jsd and batch.retain is not None and batch.retain_reference is not None:
            parts["retain_jsd"] = batch.retain.mean(batch.retain.per_token(jsd, batch.retain_reference))
            loss = loss + self.retain_jsd * parts["retain_jsd"]
        return loss, parts


def one_hot_jsd(logits: torch.Tensor, targets: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    """JSD between P and the one-hot of the target, (c,), in [0, ln 2]."""
    log_p = -nll(logits, targets)
    p = log_p.exp()
    return math.log(2) + (p * log_p - (1 + p) * p.log1p()) / 2


def jsd(logits: torch.Tensor, _: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """JSD between P and P_reference, (c,), in [0, ln 2]."""
    own, other = logits.log_softmax(-1), reference.log_softmax(-1)
    middle = torch.logaddexp(own, other) - math.log(2)
    return (own.exp() * (own - middle) + other.exp() * (other - middle)).sum(-1) / 2


METHODS.add(
    "jensun",
    Method(
        "jensun", "refusal", "Singh et al. 2025, arXiv 2509.02820", JensUn,
        {"forget_weight": 1.0, "retain_jsd": 1.0}, "refusals",
    ),
)  # fmt: skip
