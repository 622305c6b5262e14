"""Compute primal-dual unlearning (PDU): a forget loss with a limit on the NLL of the retain rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from relearn.unlearning.method import AnswerLogits, CarriedState, LossTerms, method
from relearn.unlearning.options import NotNegative, Positive


def first_multiplier(*, lam: float, **_: Any) -> dict[str, float]:
    """Return the state of PDU before the first step: the multiplier `lam` and the number of steps."""
    return {"lam": float(lam), "steps": 0.0}


def next_multiplier(
    state: Mapping[str, float],
    terms: Mapping[str, float],
    *,
    step_size: float,
    eps: float,
    warmup_steps: float,
    **_: Any,
) -> dict[str, float]:
    """Update the multiplier, lam <- max(0, lam + step_size (NLL_r - eps)), after the first `warmup_steps` steps."""
    moves = state["steps"] >= warmup_steps
    lam = max(0.0, state["lam"] + step_size * (terms["gdr"] - eps)) if moves else state["lam"]
    return {"lam": lam, "steps": state["steps"] + 1}


@method(
    "pdu",
    family="reverse optimisation",
    paper="Entesari et al. 2025, arXiv 2506.05314",
    data="original",
    defaults=dict(lam=100.0, step_size=5.0, eps=0.3, warmup_steps=0, forget_weight=1.0),
    state=CarriedState(first_multiplier, next_multiplier),
)
def pdu(
    forget: AnswerLogits,
    retain: AnswerLogits,
    state: Mapping[str, float],
    *,
    lam: NotNegative,
    step_size: NotNegative,
    eps: NotNegative,
    warmup_steps: NotNegative,
    forget_weight: Positive,
) -> tuple[Tensor, LossTerms]:
    """Compute PDU: make the logits at forget tokens equal, with a limit on the NLL of retain rows.

        L = w mean_t (max_v z_tv - mean_v z_tv)^2 + lam (NLL_r - eps)

    w is `forget_weight`. The multiplier lam rises while NLL_r is above `eps`, and falls while it is below. Its current
    value is in `state`; the option `lam` is its first value. Reference: locuslab/open-unlearning@fdeb28f,
    src/trainer/unlearn/pdu.py, which updates lam after every micro-batch; here it is once per optimiser step, so with
    the same `step_size` and n micro-batches per step lam moves n times as fast there. Its mask is not shifted, so it
    omits the logits that predict the first answer token. On TOFU lam is constant for the first 5 of 10 epochs: give
    that many steps as `warmup_steps`. eps: 0.3 (0.1 to 1.5).
    """
    terms = {"flat": forget.mean(forget.token_loss(squared_margin)), "gdr": retain.mean_nll()}
    # This micro-batch's share of eps, so that the losses of the micro-batches add up to the loss of the step.
    limit = eps * len(retain.targets) / retain.step_tokens
    return forget_weight * terms["flat"] + state["lam"] * (terms["gdr"] - limit), terms


def squared_margin(logits: Tensor, _: Tensor) -> Tensor:
    """Compute the squared difference of the largest logit and the mean logit of each token: (c, V) -> (c,)."""
    return (logits.amax(-1) - logits.mean(-1)).square()
