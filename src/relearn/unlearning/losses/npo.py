"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868).

    L = -w (2/b) E log s( -b log(P_theta(y_f) / P_theta0(y_f)) ) + retain terms

P(y) is the probability of the whole answer: the sum of its tokens' LOG-PROBABILITIES, neither their mean nor the raw
logits that some public code subtracts. The mean is over the rows of the optimiser step. At the start model its gradient
is that of gradient ascent on sequence sums; the further an answer is forgotten, the less it is pushed.

Defaults: b 0.1, all weights 1 (the authors' TOFU configuration). npo is the forget term alone, npo_gdr adds L_GDR and
npo_klr L_KLR.

SimNPO: NPO by mean log-probability and without a reference (Fan et al. 2024, arXiv 2410.07163).

    L = -w (2/b) E log s( (b/|y|) NLL(y_f) - delta ) + retain terms

NLL(y_f)/|y| is the mean over the answer's tokens; the outer mean is over the rows of the optimiser step. `margin`
"paper" is the formula above; "code" is what the authors' code and OpenUnlearning compute, s(b (NLL/|y| - delta)).
They are the same at delta 0.

Defaults: b 4.5, delta 0, w 0.125, L_GDR with weight 1 (the authors' TOFU forget10; OpenUnlearning's SimNPO.yaml).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn.functional import logsigmoid

from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts, not_negative, positive
from relearn.unlearning.token_loss import Scored

_NEEDS: frozenset[Need] = frozenset({"forget", "forget_reference_nll"})


def negative_preference(rows: Scored, reference_nll: torch.Tensor, beta: float) -> torch.Tensor:
    """Mean over the rows of the step of -(2/b) log s(-b log(P_theta(y) / P_theta0(y))); `reference_nll` (rows,)."""
    less_likely = rows.sequence_nll() - reference_nll
    return rows.mean_rows(-2 / beta * logsigmoid(beta * less_likely))


@dataclass(frozen=True)
class NPO:
    beta: float = 0.1
    forget_weight: float = 1.0
    retain: Retain = field(default_factory=lambda: Retain(0.0, 0.0))

    def __post_init__(self) -> None:
        positive(beta=self.beta, forget_weight=self.forget_weight)

    @property
    def needs(self) -> frozenset[Need]:
        return self.retain.needs | _NEEDS

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        assert batch.forget_reference_nll is not None
        parts = {"npo": negative_preference(batch.forget, batch.forget_reference_nll, self.beta)}
        kept, kept_parts = retain_terms(self.retain, batch)
        return self.forget_weight * parts["npo"] + kept, parts | kept_parts


def _build(beta: float, forget_weight: float, **retain: Any) -> NPO:
    return NPO(beta, forget_weight, Retain(**retain))


def _add(name: str, *, retain_nll: float = 0.0, retain_kl: float = 0.0) -> None:
    retain = {**RETAIN_DEFAULTS, "retain_nll": retain_nll, "retain_kl": retain_kl}
    defaults = {"beta": 0.1, "forget_weight": 1.0, **retain}
    paper = "Zhang et al. 2024, arXiv 2404.05868"
    METHODS.add(name, Method(name, "reverse optimisation", paper, _build, defaults, data="original"))


_add("npo")
_add("npo_gdr", retain_nll=1.0)
_add("npo_klr", retain_kl=1.0)


_NEEDS_simnpo: frozenset[Need] = frozenset({"forget"})


@dataclass(frozen=True)
class SimNPO:
    beta: float = 4.5
    delta: float = 0.0
    margin: Literal["paper", "code"] = "paper"
    forget_weight: float = 0.125
    retain: Retain = field(default_factory=lambda: Retain(1.0, 0.0))

    def __post_init__(self) -> None:
        positive(beta=self.beta, forget_weight=self.forget_weight)
        not_negative(delta=self.delta)
        if self.margin not in ("paper", "code"):
            raise ValueError(f"margin is {self.margin!r}: give paper or code")

    @property
    def needs(self) -> frozenset[Need]:
        return self.retain.needs | _NEEDS_simnpo

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        per_token = batch.forget.sequence_nll() / batch.forget.row_tokens()
        margin = self.delta if self.margin == "paper" else self.beta * self.delta
        parts = {"simnpo": batch.forget.mean_rows(-2 / self.beta * logsigmoid(self.beta * per_token - margin))}
        kept, kept_parts = retain_terms(self.retain, batch)
        return self.forget_weight * parts["simnpo"] + kept, parts | kept_parts


def _build_simnpo(beta: float, delta: float, margin: Any, forget_weight: float, **retain: Any) -> SimNPO:
    return SimNPO(beta, delta, margin, forget_weight, Retain(**retain))


_DEFAULTS = {"beta": 4.5, "delta": 0.0, "margin": "paper", "forget_weight": 0.125, **RETAIN_DEFAULTS}
METHODS.add(
    "simnpo",
    Method(
        "simnpo", "reverse optimisation", "Fan et al. 2024, arXiv 2410.07163", _build_simnpo, _DEFAULTS, data="original"
    ),
)
