"""UNDIAL: distil the start model with the true token's logit lowered (Dong et al. 2024, arXiv 2402.10052).

    L = w mean_t CE( softmax(z0_t - b 1[y_t]), P_theta ) + retain terms         z0: logits of the start model

The target stands still, so training converges instead of running away. The mean is over answer tokens; public code also
takes prompt and padding positions, with the label -100 as an index.

Defaults: b 10, w 1, no retain term (OpenUnlearning's UNDIAL.yaml: beta 10, alpha 0).

JensUn: refusals learned, and the rest held, by Jensen-Shannon divergence (Singh et al. 2025, arXiv 2509.02820).

    L = g mean JSD( P_theta || one-hot of the refusal's token ) + a mean JSD( P_theta || P_theta0 ) on retain rows
    JSD(P || Q) = 1/2 KL(P || M) + 1/2 KL(Q || M),  M = (P + Q) / 2

Natural logarithms, so a divergence is at most ln 2, and an NLL has no bound. Means are over the answer tokens of the
optimiser step; g is `forget_weight`, a is `retain_jsd`. Against a one-hot only p, its token's probability, counts:

    JSD = ln 2 + 1/2 [ p ln p - (1 + p) ln(1 + p) ]

The public code lays the tokens of "No Idea" over every position of the question with its original answer, with
probability 1 for both tokens at once, so that its target is no distribution. Here the question is followed by a refusal
and each token of that is the target of its own position.

CE-U, cross-entropy unlearning: teach what the model would say without the true token (Yang 2025, arXiv 2503.01224).

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

from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts, not_negative, positive
from relearn.unlearning.token_loss import Scored, TokenValue, nll

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
        "jensun",
        "refusal",
        "Singh et al. 2025, arXiv 2509.02820",
        JensUn,
        {"forget_weight": 1.0, "retain_jsd": 1.0},
        "refusals",
    ),
)


_NEEDS_ceu: frozenset[Need] = frozenset({"forget"})


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
        return self.retain.needs | _NEEDS_ceu

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


def _build_ceu(skip_first: bool, forget_weight: float, **retain: Any) -> CEU:
    return CEU(skip_first, forget_weight, Retain(**retain))


_DEFAULTS_ceu = {"skip_first": True, "forget_weight": 1.0, **RETAIN_DEFAULTS, "retain_nll": 0.0}
METHODS.add(
    "ceu",
    Method("ceu", "reverse optimisation", "Yang 2025, arXiv 2503.01224", _build_ceu, _DEFAULTS_ceu, data="original"),
)
