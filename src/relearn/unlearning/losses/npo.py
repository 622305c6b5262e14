"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868).

    L = -w (2/b) E log s( -b log(P_theta(y_f) / P_theta0(y_f)) ) + retain terms

P(y) is the probability of the whole answer: the sum of its tokens' LOG-PROBABILITIES, neither their mean nor the raw
logits that some public code subtracts. The mean is over the rows of the optimiser step. At the start model its gradient
is that of gradient ascent on sequence sums; the further an answer is forgotten, the less it is pushed.

Defaults: b 0.1, all weights 1 (the authors' TOFU configuration). npo is the forget term alone, npo_gdr adds L_GDR and
npo_klr L_KLR.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from relearn.objectives.limits import positive
from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts
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
