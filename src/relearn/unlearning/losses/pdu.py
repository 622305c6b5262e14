"""PDU, primal-dual unlearning: forget while the retain loss stays low (Entesari et al. 2025, arXiv 2506.05314).

    L = w mean_t (max_v z_tv - mean_v z_tv)^2 + lam (NLL_r - eps)
    lam <- max(0, lam + step_size (NLL_r - eps))   after every optimiser step

The forget term flattens the logits z and needs no softmax. lam is carried from step to step and kept in checkpoints:
it is the price of the retain loss, which rises while the loss is above the limit eps and falls below it. Public code
moves lam after every micro-batch; here accumulation does not change a result.

Defaults: lam 100, step_size 5, eps 0.3, w 1 (the authors' TOFU configuration). There lam rests for the first 5 of 10
epochs: give that many steps as `warmup_steps`, which is 0 because the steps of an epoch depend on the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from relearn.unlearning.losses.retain import Retain, retain_terms
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts, not_negative, positive

_NEEDS: frozenset[Need] = frozenset({"forget"})
_NLL = Retain(retain_nll=1.0, retain_kl=0.0)


@dataclass(frozen=True)
class PDU:
    """`lam` is where the multiplier starts; its present value is in `Batch.state`."""

    lam: float = 100.0
    step_size: float = 5.0
    eps: float = 0.3
    warmup_steps: int = 0
    forget_weight: float = 1.0

    def __post_init__(self) -> None:
        positive(forget_weight=self.forget_weight)
        not_negative(lam=self.lam, step_size=self.step_size, eps=self.eps, warmup_steps=self.warmup_steps)

    @property
    def needs(self) -> frozenset[Need]:
        return _NLL.needs | _NEEDS

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        assert batch.retain is not None
        parts = {"flat": batch.forget.mean(batch.forget.per_token(squared_margin))}
        kept, kept_parts = retain_terms(_NLL, batch)
        # eps is shared out over the step's tokens like the NLL, so that micro-batches add up to the loss of the step.
        limit = self.eps * len(batch.retain.targets) / batch.retain.step_tokens
        return self.forget_weight * parts["flat"] + batch.state["lam"] * (kept - limit), parts | kept_parts

    @property
    def initial_state(self) -> dict[str, float]:
        return {"lam": float(self.lam), "steps": 0.0}

    def next_state(self, state: Mapping[str, float], parts: Mapping[str, float]) -> dict[str, float]:
        moves = state["steps"] >= self.warmup_steps
        lam = max(0.0, state["lam"] + self.step_size * (parts["gdr"] - self.eps)) if moves else state["lam"]
        return {"lam": lam, "steps": state["steps"] + 1}


def squared_margin(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """How far the largest logit stands above their mean, squared: (c, V) -> (c,)."""
    return (logits.amax(-1) - logits.mean(-1)).square()


_DEFAULTS = {"lam": 100.0, "step_size": 5.0, "eps": 0.3, "warmup_steps": 0, "forget_weight": 1.0}
METHODS.add(
    "pdu",
    Method("pdu", "reverse optimisation", "Entesari et al. 2025, arXiv 2506.05314", PDU, _DEFAULTS, data="original"),
)
