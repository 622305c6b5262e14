"""LLMU: ascent on the original answers, random answers in their place, KL on the rest.

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

from relearn.objectives.limits import not_negative, positive
from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts


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


def _build(forget_weight: float, mismatch_weight: float, **retain: Any) -> Llmu:
    return Llmu(forget_weight, mismatch_weight, Retain(**retain))


METHODS.add(
    "llmu",
    Method(
        "llmu", "reverse optimisation",
        "Yao et al. 2023, arXiv 2310.10683; Gundavarapu et al. 2024, arXiv 2405.15152", _build,
        {
            "forget_weight": 0.5, "mismatch_weight": 1.0,
            **RETAIN_DEFAULTS, "retain_nll": 0.0, "retain_kl": 1.0, "direction": "reverse",
        },
        "mismatched",
    ),
)  # fmt: skip
