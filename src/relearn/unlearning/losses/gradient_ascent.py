"""Gradient ascent, alone and with a term that holds the retain rows.

    L = -w NLL_f + retain terms         NLL_f = mean NLL of the original answers of the forget records

| name | retain terms | from |
|---|---|---|
| ga | none | Jang et al. 2023, arXiv 2210.01504 |
| grad_diff | L_GDR, the GA_GDR of arXiv 2502.11190 | Liu et al. 2022, arXiv 2203.12817; TOFU, arXiv 2401.06121 |
| ga_klr | L_KLR, the GA_KLR of arXiv 2502.11190 | TOFU's "KL", arXiv 2401.06121 |

All weights are 1 (TOFU; OpenUnlearning's gamma and alpha). The loss has no lower bound: the rate and the number of
steps decide when a model has forgotten and when it is wrecked.
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
