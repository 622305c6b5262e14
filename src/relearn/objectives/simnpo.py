"""SimNPO: NPO by mean log-probability and without a reference (Fan et al. 2024, arXiv 2410.07163).

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

from relearn.objectives.limits import not_negative, positive
from relearn.unlearning.losses.retain import RETAIN_DEFAULTS, Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts

_NEEDS: frozenset[Need] = frozenset({"forget"})


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
        return self.retain.needs | _NEEDS

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        per_token = batch.forget.sequence_nll() / batch.forget.row_tokens()
        margin = self.delta if self.margin == "paper" else self.beta * self.delta
        parts = {"simnpo": batch.forget.mean_rows(-2 / self.beta * logsigmoid(self.beta * per_token - margin))}
        kept, kept_parts = retain_terms(self.retain, batch)
        return self.forget_weight * parts["simnpo"] + kept, parts | kept_parts


def _build(beta: float, delta: float, margin: Any, forget_weight: float, **retain: Any) -> SimNPO:
    return SimNPO(beta, delta, margin, forget_weight, Retain(**retain))


_DEFAULTS = {"beta": 4.5, "delta": 0.0, "margin": "paper", "forget_weight": 0.125, **RETAIN_DEFAULTS}
METHODS.add(
    "simnpo",
    Method("simnpo", "reverse optimisation", "Fan et al. 2024, arXiv 2410.07163", _build, _DEFAULTS, data="original"),
)
