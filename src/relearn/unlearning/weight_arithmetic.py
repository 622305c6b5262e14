"""Compute unlearned weights from finished trainings: negated task vectors, and TIES merges of two adapters.

task_vector trains the model on the original answers, and changes the start model in the opposite direction. ties merges
an adapter that forgets too much with one that forgets too little. Each of its two trainings has half of the epochs, or
half of the token budget. A finished adapter is kept with the checkpoints until the merged one is written. So an
interrupted run trains it only once, and ends with the same bytes as an uninterrupted run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relearn.core import distributed
from relearn.core.config import Model, Unlearn
from relearn.core.errors import InputError
from relearn.core.files import replaced_dir
from relearn.models.load import empty_model
from relearn.models.lora import attach_adapter, save_adapter, targets
from relearn.unlearning import train
from relearn.unlearning.method import METHODS, AnswerLogits, Batch, Evaluate, LossTerms, Objective, method
from relearn.unlearning.options import Positive, not_negative, positive
from relearn.unlearning.procedures import Job, procedure

FAMILY = "weight arithmetic"
# The method that both adapters of ties are trained with.
TRAINED_WITH = "npo_klr"
OVER = {"beta": 0.1, "forget_weight": 0.4, "retain_kl": 0.4, "retain_nll": 0.2}
UNDER = {"beta": 0.1, "forget_weight": 0.3, "retain_kl": 0.3, "retain_nll": 0.4}
ADAPTERS = ("over", "under")
Start = Mapping[str, Tensor]


@method(
    "task_vector",
    family=FAMILY,
    paper="Ilharco et al. 2023, arXiv 2212.04089",
    data="original",
    procedure="task_vector",
    defaults=dict(alpha=1.0),
)
def nll(forget: AnswerLogits, *, alpha: Positive) -> Tensor:
    """Compute the NLL of the original answers, the loss of the training for a task vector, which gives theta_ft.

        theta_u = theta - alpha (theta_ft - theta)

    With LoRA theta_ft - theta is B A, so the result is the same adapter with B times -alpha. Reference:
    mlfoundations/task_vectors. alpha: 1; the paper selects it on held-out data from 0 to 1, MUSE (arXiv 2407.06460)
    has 5.
    """
    del alpha  # the procedure applies it
    return forget.mean_nll()


def _check(_model: Model, settings: Unlearn) -> None:
    METHODS.get(settings.method).objective(settings.options)
    if settings.full and distributed.shards_weights():
        raise InputError(
            "a task vector of a sharded model cannot be computed",
            where="unlearn.full",
            way_out="use LoRA, or launch with DDP",
        )


@procedure("task_vector", check=_check)
def task_vector(job: Job) -> None:
    """Run task-vector unlearning: train on the original answers, negate the change of the weights, and save.

    Writes adapter/, or model/ under full fine-tuning.
    """
    chosen = METHODS.get(job.settings.method)
    chosen.objective(job.settings.options)
    alpha = {**chosen.defaults, **job.settings.options}["alpha"]
    start = _copy(job.loaded.model) if job.settings.full else {}
    training = replace(job, evaluate=_on_negated(job.evaluate, start, alpha)) if job.evaluate else job
    model = train.trained(training, name="task_vector")
    _set_weights(model, negated(model, start, alpha))
    train.save_trained(job, model)


@torch.no_grad()
def negated(model: Any, start: Start, alpha: float) -> dict[str, Tensor]:
    """Compute the negated weights theta - alpha (theta_ft - theta), by name of the weight.

    `model` has the weights theta_ft. With LoRA `start` is empty, and only the B matrices are returned; else `start`
    is theta.
    """
    weights = dict(model.named_parameters())
    if not start:
        return {name: -alpha * weight for name, weight in weights.items() if ".lora_B." in name}
    result = {}
    for name, before in start.items():
        theta, tuned = before.to(weights[name].device).float(), weights[name].float()
        result[name] = (theta - alpha * (tuned - theta)).to(weights[name].dtype)
    return result


def _copy(model: Any) -> Start:
    return {name: weight.detach().to("cpu", copy=True) for name, weight in model.named_parameters()}


@torch.no_grad()
def _set_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, weight in weights.items():
        parameters[name].copy_(weight)


def _on_negated(evaluate: Evaluate, start: Start, alpha: float) -> Evaluate:
    """Make an evaluation of the negated weights instead of the weights in training."""

    def evaluate_negated(model: Any) -> Mapping[str, float]:
        with _with_weights(model, negated(model, start, alpha)):
            return evaluate(model)

    return evaluate_negated


@contextmanager
def _with_weights(model: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace weights of the model inside the block."""
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].detach().clone() for name in weights}
    _set_weights(model, weights)
    try:
        yield
    finally:
        _set_weights(model, before)


@method(
    "ties",
    family=FAMILY,
    paper="Xu et al. 2025, arXiv 2503.21088",
    data="original",
    procedure="ties",
    defaults=dict(over=OVER, under=UNDER, weights=[1.0, 1.0], density=0.8),
)
@dataclass(frozen=True)
class Ties(Objective):
    """Merge an over-forgetting and an under-forgetting adapter with TIES (SemEval-2025 task 4).

        L = a NPO(beta) + b L_KLR + c L_GDR,    over: a, b, c = .4, .4, .2    under: a, b, c = .3, .3, .4

    A and B are merged in the same way (Yadav et al. 2023, arXiv 2306.01708). The share 1 - density of each adapter's
    numbers with the smallest absolute values is set to 0. For every number the sign with the greater sum is chosen, and
    the weighted mean of the numbers with that sign is taken. A call returns the sum of both losses. Reference:
    zjunlp/unlearn@e1a32c1, semeval25/unlearn-merging.py, which has KL(P_theta0 || P_theta) (`direction: reverse` in
    `over` and `under`) and takes NPO of batch means. Published defaults: beta 0.1, weights 1 and 1, density 0.8 (0.5 to
    0.9).
    """

    over: Mapping[str, Any]
    under: Mapping[str, Any]
    weights: Sequence[float]
    density: float

    def __post_init__(self) -> None:
        _ = self.objectives  # raises InputError for options that the trainings do not allow
        if len(self.weights) != 2:
            raise ValueError(f"weights are {list(self.weights)!r}: give two, of the over- and the under-forgetting one")
        not_negative(**{f"weights[{index}]": weight for index, weight in enumerate(self.weights)})
        positive(density=self.density)
        if self.density >= 1:
            raise ValueError(f"density is {self.density!r}: give the share of numbers to keep, below 1")

    @property
    def options(self) -> tuple[dict[str, Any], ...]:
        """Return the options of the over-forgetting and the under-forgetting training."""
        defaults = METHODS.get(TRAINED_WITH).defaults
        return {**defaults, **OVER, **self.over}, {**defaults, **UNDER, **self.under}

    @cached_property
    def objectives(self) -> list[Objective]:
        return [METHODS.get(TRAINED_WITH).objective(options) for options in self.options]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(objective.needs for objective in self.objectives))

    def __call__(self, batch: Batch) -> tuple[Tensor, LossTerms]:
        terms = {name: objective(batch)[0] for name, objective in zip(ADAPTERS, self.objectives, strict=True)}
        return terms["over"] + terms["under"], terms


def _ties(settings: Unlearn) -> Ties:
    objective = METHODS.get(settings.method).objective(settings.options)
    assert isinstance(objective, Ties)
    return objective


def _check_ties(spec: Model, settings: Unlearn) -> None:
    _ties(settings)
    model = None if settings.full else empty_model(spec)
    if model is not None and targets(model, settings.lora, "unlearn.lora.target")[1]:
        raise InputError(
            "ties cannot merge adapters of experts",
            where="unlearn.lora.target",
            way_out="name linear layers, such as [q_proj, k_proj, v_proj, o_proj]",
        )
    if settings.full:
        raise InputError("ties merges two LoRA adapters", where="unlearn.full", way_out="leave it out")
    if settings.evaluate_every:
        raise InputError(
            "the result of ties exists only when both adapters are trained",
            where="unlearn.evaluate_every",
            way_out="leave it out",
        )
    if distributed.shards_weights():
        raise InputError("ties cannot train its two adapters on a sharded model", way_out="launch with DDP")


@procedure("ties", check=_check_ties)
def ties(job: Job) -> None:
    """Run TIES unlearning: train both adapters, merge them and write adapter/."""
    settings = _ties(job.settings)
    folders = [_adapter(job, name, options) for name, options in zip(ADAPTERS, settings.options, strict=True)]
    train.save_trained(job, merged(job.loaded.model, folders, settings))


def merged(model: Any, folders: list[Path], settings: Ties) -> Any:
    """Merge the adapters in `folders` with TIES, and add the result to `model` as its only adapter."""
    with_both = model
    for folder, name in zip(folders, ADAPTERS, strict=True):
        with_both = attach_adapter(with_both, folder, name)
    with_both.base_model.add_weighted_adapter(  # pyright: ignore[reportCallIssue]
        list(ADAPTERS), list(settings.weights), "default", combination_type="ties", density=settings.density
    )
    with_both.set_adapter("default")
    for name in ADAPTERS:
        with_both.delete_adapter(name)
    return with_both.eval()


def _adapter(job: Job, name: str, options: Mapping[str, Any]) -> Path:
    """Train one adapter unless its folder exists, and return the folder."""
    folder = job.folder / train.CHECKPOINTS / f"ties-{name}-adapter"
    if not distributed.on_main(folder.exists):
        model = train.trained(_half(job, name, options), name=f"ties-{name}")
        with replaced_dir(folder) as target:
            save_adapter(model, target)
        model.unload()
    distributed.barrier()
    return folder


def _half(job: Job, name: str, options: Mapping[str, Any]) -> Job:
    """Make the job of one adapter; its steps are logged as the first or second half of the steps of `ties`."""
    budget = job.settings.token_budget
    changes = {
        "method": TRAINED_WITH,
        "options": dict(options),
        "epochs": job.settings.epochs / 2,
        "token_budget": max(1, budget // 2) if budget else None,
    }
    settings = job.settings.model_copy(update=changes)
    plan = train.unlearn_batches(job.loaded.chat, METHODS.get(TRAINED_WITH), job.data, settings=settings, seed=job.seed)
    steps = math.ceil(len(plan) / settings.accumulation)
    done = steps * ADAPTERS.index(name)

    def log(*, step: int, parts: dict[str, float], **others: Any) -> None:
        job.log(step=step + done, parts={f"{name}_{part}": value for part, value in parts.items()}, **others)

    def tick(step: int, _total: int | None = None) -> None:
        job.tick(step + done, 2 * steps)

    return replace(job, settings=settings, log=log, tick=tick)
