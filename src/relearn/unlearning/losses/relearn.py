"""ReLearn: unlearning by learning new answers (Xu et al., ACL 2025, arXiv 2502.11190).

    L = L_GDF + L_GDR + L_KLR
    L_GDF = mean NLL of the augmented rows (vague answers, their completions, generic rows)
    L_GDR = mean NLL of retain rows
    L_KLR = mean KL(P_theta || P_theta0) on retain rows; theta0 is the start model

All weights are 1. Means are over the answer tokens of the optimiser step, forget and retain apart.

ReLearn that also pushes the original answers down a little: the new answers teach what to say, NPO what not to.

    L = L_ReLearn + w (-2/b) mean log s( -b log(P_theta(y_o) / P_theta0(y_o)) )

y_o is the original answer to the question of a vague answer's row; completions and generic rows have none beside them.
L_ReLearn: Xu et al. 2025, arXiv 2502.11190; the second term: NPO, Zhang et al. 2024, arXiv 2404.05868, means over the
rows with an original of the optimiser step. Not the paper's form; docs/robustness.md has what it brings.

Defaults: w 0.1, b 0.1, both retain terms 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from relearn.unlearning.losses.npo import negative_preference
from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts, positive

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


@dataclass(frozen=True)
class ReLearnNPO:
    beta: float = 0.1
    forget_weight: float = 0.1
    relearn: ReLearn = field(default_factory=ReLearn)

    def __post_init__(self) -> None:
        positive(beta=self.beta, forget_weight=self.forget_weight)

    @property
    def needs(self) -> frozenset[Need]:
        own: set[Need] = {"original", "original_reference_nll"}
        return self.relearn.needs | own

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        loss, parts = self.relearn(batch)
        if batch.original is None:
            return loss, parts
        assert batch.original_reference_nll is not None
        parts = {**parts, "npo": negative_preference(batch.original, batch.original_reference_nll, self.beta)}
        return loss + self.forget_weight * parts["npo"], parts


def _build_relearn_npo(beta: float, forget_weight: float, **retain: Any) -> ReLearnNPO:
    return ReLearnNPO(beta, forget_weight, ReLearn(Retain(**retain)))


METHODS.add(
    "relearn_npo",
    Method(
        "relearn_npo",
        "relearn",
        "Xu et al. 2025, arXiv 2502.11190; Zhang et al. 2024, arXiv 2404.05868",
        _build_relearn_npo,
        {"beta": 0.1, "forget_weight": 0.1, **RETAIN_DEFAULTS, "retain_nll": 1.0, "retain_kl": 1.0},
        "original_beside_synthesised",
    ),
)
