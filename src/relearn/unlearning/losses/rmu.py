"""Compute RMU: move the states of forget rows to one random vector, and keep those of retain rows unchanged."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import torch
from torch import Tensor

from relearn.unlearning.method import AnswerLogits, LossTerms, method
from relearn.unlearning.options import Allowed, NotNegative, Positive

LAYER = Allowed(
    "the number of a decoder layer, from 0 or from -1 down",
    lambda value: isinstance(value, int) and not isinstance(value, bool),
)


@method(
    "rmu",
    family="representation",
    paper="Li et al. 2024, arXiv 2403.03218",
    data="original",
    defaults=dict(layer=7, coefficient=2.0, alpha=1.0, seed=0),
    enabled_by=dict.fromkeys(("retain", "retain_states", "retain_states_reference"), "alpha"),
)
def rmu(
    forget: AnswerLogits,
    forget_states: Tensor,
    retain: AnswerLogits | None = None,
    retain_states: Tensor | None = None,
    retain_states_reference: Tensor | None = None,
    *,
    layer: Annotated[int, LAYER],
    coefficient: Positive,
    alpha: NotNegative,
    seed: int,
) -> tuple[Tensor, LossTerms]:
    """Compute RMU, representation misdirection for unlearning.

        L = mean || h_l(x_f) - c u ||^2 / width + alpha mean || h_l(x_r) - h_l^ref(x_r) ||^2 / width

    h_l are the states after decoder layer l (`layer`, from 0; negative from the end). u is drawn from U[0,1)^width with
    `seed` and normalised to length 1. c is `coefficient`. Means are over the answer tokens of the step. The states of
    an answer token are those at the position that PREDICTS it. (The paper takes every token of a document,
    OpenUnlearning the positions of the answer tokens.) Only layers up to l get a gradient.

    Reference and source of the defaults: locuslab/open-unlearning@afcd6b6, src/trainer/unlearn/rmu.py. Good values of
    c and alpha depend on the size of the states, so on model and layer. The paper has c 6.5 and alpha 1200 for
    Zephyr-7B; the usual grid is c 1, 10, 100.
    """
    states = _at_least_float32(forget_states)
    target = coefficient * direction(states.shape[-1], seed).to(states)
    terms = {"misdirection": forget.mean((states - target).square().mean(-1))}
    loss = terms["misdirection"]
    if retain is not None and retain_states is not None and retain_states_reference is not None:
        drift = _at_least_float32(retain_states) - _at_least_float32(retain_states_reference)
        terms["drift"] = retain.mean(drift.square().mean(-1))
        loss = loss + alpha * terms["drift"]
    return loss, terms


@lru_cache
def direction(width: int, seed: int) -> Tensor:
    """Draw the unit vector u: (width,) float64 on the CPU, so that it is the same on every device."""
    drawn = torch.rand(width, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float64, device="cpu")
    return drawn / drawn.norm()


def _at_least_float32(states: Tensor) -> Tensor:
    """Convert half precision to float32, because squares of half precision overflow."""
    return states if states.dtype == torch.float64 else states.float()
