"""Gradient ascent, alone and with a term that holds the retain rows.

    L = -w NLL_f + retain terms         NLL_f = mean NLL of the original answers of the forget records

| name | retain terms | from |
|---|---|---|
| ga | none | Jang et al. 2023, arXiv 2210.01504 |
| grad_diff | L_GDR, the GA_GDR of arXiv 2502.11190 | Liu et al. 2022, arXiv 2203.12817; TOFU, arXiv 2401.06121 |
| ga_klr | L_KLR, the GA_KLR of arXiv 2502.11190 | TOFU's "KL", arXiv 2401.06121 |

All weights are 1 (TOFU; OpenUnlearning's gamma and alpha). The loss has no lower bound: the rate and the number of
steps decide when a model has forgotten and when it is wrecked.

Gradient ascent with a weight on every token that follows the token's own probability p.

    L = -w mean_t[ p_t^b1 (1 - p_t)^b2 NLL_t ] + retain terms          no gradient flows through the weights

| name | exponents | from |
|---|---|---|
| wga | b1 = beta 1, b2 = 0: tokens that are forgotten are left alone | Wang et al. 2025, arXiv 2502.19301 |
| satimp | b1 5 (saturation), b2 1 (importance) | Yang et al. 2025, arXiv 2505.11953 |

Defaults: exponents as OpenUnlearning sets them after the papers. wga: L_GDR with weight 1 (OpenUnlearning; the authors'
code has the forget term alone). satimp: L_GDR with weight 0.1 (the authors' code); OpenUnlearning's SatImp.yaml has
0.1 on the forget term and 1 on L_GDR instead.

LLMU: ascent on the original answers, random answers in their place, KL on the rest.

Yao et al. 2023, arXiv 2310.10683; used with all three terms by Gundavarapu et al. 2024, arXiv 2405.15152.

    L = 0.5 * -NLL(original answers) + 1 * NLL(random answers of other records) + 1 * KL(P_theta0 || P_theta) on retain

Means are over the answer tokens of the optimiser step, each stream apart. What the authors call "forward KL" is
KL(P_theta0 || P_theta), `direction: reverse` in this project's terms; they leave out the entropy of P_theta0, which no
gradient sees. The random answers are five for every question, drawn once from the retain records. The authors
stop when the NLL of the original answers reaches 100; here `unlearn.runaway_loss` and the epochs bound a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts, not_negative, positive

_NEEDS: frozenset[Need] = frozenset({"forget"})


@dataclass(frozen=True)
class GradientAscent:
    forget_weight: float = 1.0
    retain: Retain = field(default_factory=lambda: Retain(0.0, 0.0))

    def __post_init__(self) -> None:
        positive(forget_weight=self.forget_weight)

    @property
    def needs(self) -> frozenset[Need]:
        return self.retain.needs | _NEEDS

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        parts = {"ga": -batch.forget.mean_nll()}
        kept, kept_parts = retain_terms(self.retain, batch)
        return self.forget_weight * parts["ga"] + kept, parts | kept_parts


def _build(forget_weight: float, **retain: Any) -> GradientAscent:
    return GradientAscent(forget_weight, Retain(**retain))


def _add(name: str, paper: str, *, retain_nll: float = 0.0, retain_kl: float = 0.0) -> None:
    defaults = {"forget_weight": 1.0, **RETAIN_DEFAULTS, "retain_nll": retain_nll, "retain_kl": retain_kl}
    METHODS.add(name, Method(name, "reverse optimisation", paper, _build, defaults, data="original"))


_add("ga", "Jang et al. 2023, arXiv 2210.01504")
_add("grad_diff", "Liu et al. 2022, arXiv 2203.12817", retain_nll=1.0)
_add("ga_klr", "Maini et al. 2024, arXiv 2401.06121", retain_kl=1.0)


_NEEDS_weighted: frozenset[Need] = frozenset({"forget"})


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
        return self.retain.needs | _NEEDS_weighted

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


@dataclass(frozen=True)
class Llmu:
    """`forget_weight` weighs the ascent; with `mismatch_weight` 0 the random answers and their passes are left out."""

    forget_weight: float = 0.5
    mismatch_weight: float = 1.0
    retain: Retain = field(default_factory=lambda: Retain(0.0, 1.0, "reverse"))

    def __post_init__(self) -> None:
        positive(forget_weight=self.forget_weight)
        not_negative(mismatch_weight=self.mismatch_weight)

    @property
    def needs(self) -> frozenset[Need]:
        own: set[Need] = {"forget", "mismatched"} if self.mismatch_weight else {"forget"}
        return self.retain.needs | own

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        parts = {"ga": -batch.forget.mean_nll()}
        loss = self.forget_weight * parts["ga"]
        if self.mismatch_weight:
            assert batch.mismatched is not None
            parts["mismatch"] = batch.mismatched.mean_nll()
            loss = loss + self.mismatch_weight * parts["mismatch"]
        kept, kept_parts = retain_terms(self.retain, batch)
        return loss + kept, parts | kept_parts


def _build_llmu(forget_weight: float, mismatch_weight: float, **retain: Any) -> Llmu:
    return Llmu(forget_weight, mismatch_weight, Retain(**retain))


METHODS.add(
    "llmu",
    Method(
        "llmu",
        "reverse optimisation",
        "Yao et al. 2023, arXiv 2310.10683; Gundavarapu et al. 2024, arXiv 2405.15152",
        _build_llmu,
        {
            "forget_weight": 0.5,
            "mismatch_weight": 1.0,
            **RETAIN_DEFAULTS,
            "retain_nll": 0.0,
            "retain_kl": 1.0,
            "direction": "reverse",
        },
        "mismatched",
    ),
)
