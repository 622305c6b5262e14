"""ReLearn: unlearning by learning new answers (Xu et al., ACL 2025, arXiv 2502.11190).

    L = L_GDF + L_GDR + L_KLR
    L_GDF = mean NLL of the augmented rows (vague answers, their completions, generic rows)
    L_GDR = mean NLL of retain rows
    L_KLR = mean KL(P_theta || P_theta0) on retain rows; theta0 is the start model

All weights are 1. Means are over the answer tokens of the optimiser step, forget and retain apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from relearn.objectives.base import METHODS, Batch, Method, Need

PAPER = "Xu et al. 2025, arXiv 2502.11190"


@dataclass(frozen=True)
class ReLearn:
    """`retain_nll` weighs L_GDR, `retain_kl` L_KLR; a weight of 0 leaves the term, and its passes, out."""

    retain_nll: float = 1.0
    retain_kl: float = 1.0
    direction: Literal["forward", "reverse"] = "forward"

    def __post_init__(self) -> None:
        if self.direction not in ("forward", "reverse"):
            raise ValueError(f"direction is {self.direction!r}: give forward or reverse")
        if self.retain_nll < 0 or self.retain_kl < 0:
            raise ValueError("retain_nll and retain_kl are weights of 0 or more")

    @property
    def needs(self) -> frozenset[Need]:
        needs: set[Need] = {"forget"}
        if self.retain_nll or self.retain_kl:
            needs.add("retain")
        if self.retain_kl:
            needs.add("retain_reference")
        return frozenset(needs)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        parts = {"gdf": batch.forget.mean_nll()}
        loss = parts["gdf"]
        if self.retain_nll and batch.retain is not None:
            parts["gdr"] = batch.retain.mean_nll()
            loss = loss + self.retain_nll * parts["gdr"]
        if self.retain_kl and batch.retain is not None and batch.retain_reference is not None:
            parts["klr"] = batch.retain.mean_kl(batch.retain_reference, direction=self.direction)
            loss = loss + self.retain_kl * parts["klr"]
        return loss, parts


def _add(name: str, *, retain_nll: float, retain_kl: float) -> None:
    defaults = {"retain_nll": retain_nll, "retain_kl": retain_kl, "direction": "forward"}
    METHODS.add(name, Method(name, "relearn", PAPER, ReLearn, defaults))


_add("relearn", retain_nll=1.0, retain_kl=1.0)
_add("relearn_gdf", retain_nll=0.0, retain_kl=0.0)
_add("relearn_gdr", retain_nll=1.0, retain_kl=0.0)
_add("relearn_klr", retain_nll=0.0, retain_kl=1.0)
