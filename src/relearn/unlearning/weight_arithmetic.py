"""Negation of a task vector (arXiv 2212.04089): train on what is to be forgotten, then go the other way.

Plan, checkpoints, LoRA or full fine-tuning are those of any other method. With LoRA the result is the trained adapter
with B times -alpha, for theta_ft - theta is B A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from relearn.core import distributed
from relearn.core.config import Model, Unlearn
from relearn.core.errors import InputError
from relearn.objectives.arithmetic import TaskVector
from relearn.unlearning import train
from relearn.unlearning.method import METHODS
from relearn.unlearning.procedures import Job, procedure

Start = Mapping[str, torch.Tensor]


def _check(model: Model, settings: Unlearn) -> None:
    _chosen(settings)
    if settings.full and distributed.shards_weights():
        raise InputError(
            "a task vector of a whole model in shards cannot be worked out", where="unlearn.full",
            way_out="use LoRA, or launch with DDP",
        )  # fmt: skip


@procedure("task_vector", check=_check)
def task_vector(job: Job) -> None:
    """Train on the original answers, negate, and write adapter/, or model/ under full fine-tuning."""
    alpha = _chosen(job.settings).alpha
    start = _copy(job.loaded.model) if job.settings.full else {}
    asked = replace(job, evaluate=_of_negated(job.evaluate, start, alpha)) if job.evaluate else job
    model = train.trained(asked, name="task_vector")
    _put(model, negated(model, start, alpha))
    train.save_trained(job, model)


@torch.no_grad()
def negated(model: Any, start: Start, alpha: float) -> dict[str, torch.Tensor]:
    """The weights that `theta - alpha (theta_ft - theta)` asks for, by name.

    `model` is theta_ft. With LoRA these are B's alone, and `start` is empty; else `start` holds theta.
    """
    weights = dict(model.named_parameters())
    if not start:
        return {name: -alpha * weight for name, weight in weights.items() if ".lora_B." in name}
    found = {}
    for name, before in start.items():
        theta, tuned = before.to(weights[name].device).float(), weights[name].float()
        found[name] = (theta - alpha * (tuned - theta)).to(weights[name].dtype)
    return found


def _chosen(settings: Unlearn) -> TaskVector:
    chosen = METHODS.get(settings.method).objective(settings.options)
    assert isinstance(chosen, TaskVector)
    return chosen


def _copy(model: Any) -> Start:
    return {name: weight.detach().to("cpu", copy=True) for name, weight in model.named_parameters()}


@torch.no_grad()
def _put(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    own = dict(model.named_parameters())
    for name, weight in weights.items():
        own[name].copy_(weight)


def _of_negated(evaluate: Callable[[Any], float], start: Start, alpha: float) -> Callable[[Any], float]:
    """Asks the model that would come out, not the one that is learning what is to be forgotten."""

    def measure(model: Any) -> float:
        with _turned(model, negated(model, start, alpha)):
            return evaluate(model)

    return measure


@contextmanager
def _turned(model: Any, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """The model with other weights; afterwards those it had, to the bit."""
    own = dict(model.named_parameters())
    before = {name: own[name].detach().clone() for name in weights}
    _put(model, weights)
    try:
        yield
    finally:
        _put(model, before)
