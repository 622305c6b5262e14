"""Methods that leave the model's weights alone and change what is asked of it, or what it says, at inference.

offset: Offset (delta) unlearning, Huang et al., TMLR 2025, arXiv 2404.11045.

    logits = l_M + alpha (l_small_unlearned - l_small)

A small model's adapter is trained with any objective on the logits of the ensemble; M is never changed.

eco: ECO prompts, Liu et al., NeurIPS 2024, arXiv 2406.07933.

    x -> corrupt(e(x); sigma)   if p(forget | x) > threshold,   else x
    sigma = the least with  v - m(sigma) <= 0.05 (v - m(0))

m(sigma) is the mean NLL of the original answers to the corrupted prompts, v its surrogate value, what it would be had
the model never seen them. The paper takes v from other data and the sigma that comes nearest; ours is the mean NLL with
the question blanked out, so that v - m(sigma) is what the question still tells about its answer, in nats per token.
Nothing is trained but a prompt classifier; sigma is found without gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from relearn.core.registry import suggest
from relearn.unlearning.data.streams import Source
from relearn.unlearning.method import METHODS, Batch, Method, Need, Objective, Parts, not_negative, positive

FAMILY = "inference-time"


@dataclass(frozen=True)
class Offset:
    """`inner` is the objective the small model is trained with, `data` what its forget stream is made of.

    `small` names the small model: a built-in name, a folder or a name on the hub.
    """

    inner: Objective
    data: Source
    alpha: float = 1.0
    small: str | None = None

    def __post_init__(self) -> None:
        not_negative(alpha=self.alpha)

    @property
    def needs(self) -> frozenset[Need]:
        return self.inner.needs

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        return self.inner(batch)


@dataclass(frozen=True)
class Eco:
    """The settings of ECO; called, what questions still tell about their answers, which `strength` is to end.

    `encoder`: the sentence encoder of the prompt classifier; `penalty`: the weight of the squared norm of its weights.
    `mode` rand_noise or zero_out, `tokens` subject or question, see
    `unlearning/inference_time/eco_model.py`. What is None is found:
    `threshold` on held-out questions, `strength` by search, `tokens` subject where that is enough.
    """

    encoder: str = "all-minilm-l6-v2"
    threshold: float | None = None
    mode: str = "rand_noise"
    tokens: str | None = None
    strength: float | None = None
    penalty: float = 1e-4

    def __post_init__(self) -> None:
        for name, known in (("mode", ["rand_noise", "zero_out"]), ("tokens", ["subject", "question"])):
            if getattr(self, name) not in (known if name == "mode" else [None, *known]):
                raise ValueError(f"{name} is {getattr(self, name)!r}: {suggest(str(getattr(self, name)), known)}")
        positive(penalty=self.penalty)
        if self.threshold is not None:
            positive(threshold=self.threshold)
            if self.threshold >= 1:
                raise ValueError(f"threshold is {self.threshold!r}: give a probability below 1")
        if self.strength is not None:
            not_negative(strength=self.strength)
            if self.mode == "zero_out" and self.strength > 1:
                raise ValueError(f"strength is {self.strength!r}: zero_out takes a share of the dimensions, 0 to 1")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"forget", "forget_reference_nll"})

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        """v - m, for `forget` the answers to corrupted prompts and their NLL without a question as the reference."""
        assert batch.forget_reference_nll is not None
        surrogate = batch.forget_reference_nll.sum() / batch.forget.step_tokens
        parts = {"nll": batch.forget.mean_nll(), "surrogate": surrogate}
        return parts["surrogate"] - parts["nll"], parts


def _offset(objective: str, objective_options: Mapping[str, Any], alpha: float, small: str | None) -> Offset:
    method = METHODS.get(objective)
    if method.procedure != "train":
        raise ValueError(f"objective {objective!r} is no loss to train with: take grad_diff, npo_gdr or another")
    inner = method.objective(objective_options)
    if any(need.endswith(("_states", "_states_reference")) for need in inner.needs):
        raise ValueError(f"objective {objective!r} needs the states of a layer, and an ensemble has only logits")
    return Offset(inner, method.data, alpha, small)


METHODS.add(
    "offset",
    Method(
        "offset",
        FAMILY,
        "Huang et al. 2025, arXiv 2404.11045",
        _offset,
        {"objective": "grad_diff", "objective_options": {}, "alpha": 1.0, "small": None},
        "original",
        "offset",
    ),
)
METHODS.add(
    "eco",
    Method(
        "eco",
        FAMILY,
        "Liu et al. 2024, arXiv 2406.07933",
        Eco,
        {
            "encoder": "all-minilm-l6-v2",
            "threshold": None,
            "mode": "rand_noise",
            "tokens": None,
            "strength": None,
            "penalty": 1e-4,
        },
        "original",
        "eco",
    ),
)
