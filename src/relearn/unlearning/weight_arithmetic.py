"""Compute the unlearned weights from finished trainings: task vectors, and TIES merges of two adapters.

task_vector negates a task vector: the model is trained on the original answers, and the start model is moved in the
opposite direction. ties merges an adapter that forgets too much with one that forgets too little. Both cost as much
training as any other method: the two trainings of ties have half of the epochs, or of the token budget, each. A
finished adapter is kept among the checkpoints until the merged one is written, so a killed run trains it only once and
ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from relearn.core.run_dir import replaced_dir
from relearn.models.load import check_adapter
from relearn.models.lora import save_adapter
from relearn.unlearning import train
from relearn.unlearning.method import METHODS, AnswerLogits, Batch, LossTerms, Objective, method
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
    """Compute the NLL of the original answers, the loss of the training that gives theta_ft.

        theta_u = theta - alpha (theta_ft - theta)

    With LoRA the difference is B A, so the result is the same adapter with B times -alpha. Reference:
    mlfoundations/task_vectors. alpha: 1; the paper takes it on held-out data from 0 to 1, MUSE (arXiv 2407.06460) 5.
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
    """Train on the original answers, negate, and write adapter/, or model/ under full fine-tuning."""
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
    """Compute theta - alpha (theta_ft - theta), by name of the weight.

    `model` is theta_ft. With LoRA only the B matrices change and `start` is empty; else `start` holds theta.
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


def _on_negated(evaluate: Callable[[Any], float], start: Start, alpha: float) -> Callable[[Any], float]:
    """Evaluate the model that would result, not the one that is learning the forget answers."""

    def evaluate_negated(model: Any) -> float:
        with _with_weights(model, negated(model, start, alpha)):
            return evaluate(model)

    return evaluate_negated


@contextmanager
def _with_weights(model: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the model other weights for as long as the block lasts."""
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
    """TIES merge of an over- and an under-forgetting adapter (SemEval-2025 task 4).

        L = a NPO(beta) + b L_KLR + c L_GDR,    over: a, b, c = .4, .4, .2    under: a, b, c = .3, .3, .4

    Of A and of B alike: the smallest 1 - density of each adapter's numbers are dropped, the sign with the greater sum
    is elected for every number, and the mean of those that have it, times their weights, is kept (Yadav et al. 2023,
    arXiv 2306.01708). Called, it returns the sum of both losses. Reference: zjunlp/unlearn@e1a32c1,
    semeval25/unlearn-merging.py, which has KL(P_theta0 || P_theta) (`direction: reverse` in `over` and `under`) and
    takes NPO of batch means. Defaults as published: beta 0.1, weights 1 and 1, density 0.8 (0.5 to 0.9).
    """

    over: Mapping[str, Any]
    under: Mapping[str, Any]
    weights: Sequence[float]
    density: float

    def __post_init__(self) -> None:
        _ = self.objectives  # refuses impossible options of the two trainings
        if len(self.weights) != 2:
            raise ValueError(f"weights are {list(self.weights)!r}: give two, of the over- and the under-forgetting one")
        not_negative(**{f"weights[{index}]": weight for index, weight in enumerate(self.weights)})
        positive(density=self.density)
        if self.density >= 1:
            raise ValueError(f"density is {self.density!r}: give the share of numbers to keep, below 1")

    @property
    def options(self) -> tuple[dict[str, Any], ...]:
        """The options of the two trainings, over- and under-forgetting."""
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


def _check_ties(_model: Model, settings: Unlearn) -> None:
    _ties(settings)
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
    """Train both adapters, merge them and write adapter/."""
    settings = _ties(job.settings)
    folders = [_adapter(job, name, options) for name, options in zip(ADAPTERS, settings.options, strict=True)]
    train.save_trained(job, merged(job.loaded.model, folders, settings))


def merged(model: Any, folders: list[Path], settings: Ties) -> Any:
    """Put the TIES merge of the adapters in `folders` on `model` as its only adapter."""
    from peft import PeftModel

    for folder in folders:
        check_adapter(folder)
    with_both = PeftModel.from_pretrained(model, str(folders[0]), adapter_name=ADAPTERS[0], use_safetensors=True)
    with_both.load_adapter(str(folders[1]), adapter_name=ADAPTERS[1], use_safetensors=True)
    with_both.base_model.add_weighted_adapter(  # pyright: ignore[reportCallIssue]
        list(ADAPTERS), list(settings.weights), "default", combination_type="ties", density=settings.density
    )
    with_both.set_adapter("default")
    for name in ADAPTERS:
        with_both.delete_adapter(name)
    return with_both.eval()


def _adapter(job: Job, name: str, options: Mapping[str, Any]) -> Path:
    """Train one adapter, unless it is there already, and return its folder."""
    folder = job.folder / train.CHECKPOINTS / f"ties-{name}-adapter"
    if not distributed.on_main(folder.exists):
        model = train.trained(_half(job, name, options), name=f"ties-{name}")
        with replaced_dir(folder) as target:
            save_adapter(model, target)
        model.unload()
    distributed.barrier()
    return folder


def _half(job: Job, name: str, options: Mapping[str, Any]) -> Job:
    """Make the job of one adapter; its steps are logged as the first or the second half of the method's."""
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
