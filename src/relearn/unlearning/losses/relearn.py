"""ReLearn: unlearning by learning new answers (Xu et al., ACL 2025, arXiv 2502.11190).

    L = L_GDF + L_GDR + L_KLR
    L_GDF = mean NLL of the augmented rows (vague answers, their completions, generic rows)
    L_GDR = mean NLL of retain rows
    L_KLR = mean KL(P_theta || P_theta0) on retain rows; theta0 is the start model

All weights are 1. Means are over the answer tokens of the optimiser step, forget and retain apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts

PAPER = "Xu et al. 2025, arXiv 2502.11190"
_NEEDS: frozenset[Need] = frozenset({"forget"})


@dataclass(frozen=True)
class ReLearn:
    retain: Retain = field(default_factory=Retain)

    @property
    def needs(self) -> frozenset[Need]:
        return self.retain.needs | _NEEDS

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        parts = {"gdf": batch.forget.mean_nll()}
        kept, kept_parts = retain_terms(self.retain, batch)
        return parts["gdf"] + kept, parts | kept_parts


def _add(name: str, *, retain_nll: float, retain_kl: float) -> None:
    defaults = {**RETAIN_DEFAULTS, "retain_nll": retain_nll, "retain_kl": retain_kl}
    METHODS.add(name, Method(name, "relearn", PAPER, _build, defaults))


def _build(**options: Any) -> ReLearn:
    return ReLearn(Retain(**options))


_add("relearn", retain_nll=1.0, retain_kl=1.0)
_add("relearn_gdf", retain_nll=0.0, retain_kl=0.0)
_add("relearn_gdr", retain_nll=1.0, retain_kl=0.0)
_add("relearn_klr", retain_nll=0.0, retain_kl=1.0)
