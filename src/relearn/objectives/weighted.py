"""Gradient ascent with a weight on every token that follows the token's own probability p.

    L = -w mean_t[ p_t^b1 (1 - p_t)^b2 NLL_t ] + retain terms          no gradient flows through the weights

| name | exponents | from |
|---|---|---|
| wga | b1 = beta 1, b2 = 0: tokens that are forgotten are left alone | Wang et al. 2025, arXiv 2502.19301 |
| satimp | b1 5 (saturation), b2 1 (importance) | Yang et al. 2025, arXiv 2505.11953 |

Defaults: exponents as OpenUnlearning sets them after the papers. wga: L_GDR with weight 1 (OpenUnlearning; the authors'
code has the forget term alone). satimp: L_GDR with weight 0.1 (the authors' code); OpenUnlearning's SatImp.yaml has
0.1 on the forget term and 1 on L_GDR instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from relearn.objectives.limits import not_negative, positive
from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts

_NEEDS: frozenset[Need] = frozenset({"forget"})


@dataclass(frozen=True)
class WeightedAscent:
    """`term` names the forget term in the log."""

    term: str
    beta1: float
    beta2: float
    forget_weight: float = 1.0
    retain: Retain = field(default_factory=lambda: Retain(1.0, 0.0))

    def __post_init__(self) -> None:
        positive(forget_weight=self.forget_weight)

    @property
    def needs(self) -> frozenset[Need]:
        return self.retain.needs | _NEEDS

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        losses = batch.forget.token_nll()
        known = losses.detach()
        weights = torch.exp(-self.beta1 * known) * (-torch.expm1(-known)) ** self.beta2
        parts = {self.term: -batch.forget.mean(weights * losses)}
        kept, kept_parts = retain_terms(self.retain, batch)
        return self.forget_weight * parts[self.term] + kept, parts | kept_parts


def _wga(beta: float, forget_weight: float, **retain: Any) -> WeightedAscent:
    not_negative(beta=beta)
    return WeightedAscent("wga", beta, 0.0, forget_weight, Retain(**retain))


def _satimp(beta1: float, beta2: float, forget_weight: float, **retain: Any) -> WeightedAscent:
    not_negative(beta1=beta1, beta2=beta2)
    return WeightedAscent("satimp", beta1, beta2, forget_weight, Retain(**retain))


_WGA_DEFAULTS = {"beta": 1.0, "forget_weight": 1.0, **RETAIN_DEFAULTS}
METHODS.add(
    "wga",
    Method("wga", "reverse optimisation", "Wang et al. 2025, arXiv 2502.19301", _wga, _WGA_DEFAULTS, data="original"),
)
_SATIMP_DEFAULTS = {"beta1": 5.0, "beta2": 1.0, "forget_weight": 1.0, **RETAIN_DEFAULTS, "retain_nll": 0.1}
METHODS.add(
    "satimp",
    Method(
        "satimp",
        "reverse optimisation",
        "Yang et al. 2025, arXiv 2505.11953",
        _satimp,
        _SATIMP_DEFAULTS,
        data="original",
    ),
)
