"""Negation of a task vector (arXiv 2212.04089): train on what is to be forgotten, then go the other way.

Plan, checkpoints, LoRA or full fine-tuning are those of any other method. With LoRA the result is the trained adapter
with B times -alpha, for theta_ft - theta is B A.

Weight arithmetic: what is added to the start model's weights theta is worked out from finished trainings.

task_vector: negation of a task vector, Ilharco et al., ICLR 2023, arXiv 2212.04089.

    theta_u = theta - alpha (theta_ft - theta)

theta_ft is theta trained on the original answers of the forget records (NLL). With LoRA the difference is B A, so the
result is the same adapter with B times -alpha. Default alpha 1; the paper takes it on held-out data from 0 to 1, MUSE
(arXiv 2407.06460) 5.

ties: TIES merge of an over- and an under-forgetting adapter, Xu et al., SemEval-2025 task 4, arXiv 2503.21088.

    L = a NPO(beta) + b L_KLR + c L_GDR,    over: a, b, c = .4, .4, .2    under: a, b, c = .3, .3, .4

Of A and of B alike: the smallest 1 - density of each adapter's numbers are dropped, the sign with the greater sum is
elected for every number, and the mean of those that have it, times their weights, is kept (Yadav et al. 2023, arXiv
2306.01708). Defaults as published: beta 0.1, weights 1 and 1, density 0.8. The authors' code has
KL(P_theta0 || P_theta) (`direction: reverse` in `over` and `under`) and NPO on batch means; here it is that of npo.py.

TIES merge of an adapter that forgets too much and one that forgets too little (arXiv 2503.21088).

Each is trained from the start model with half of the epochs or of the token budget, so that the method costs what any
other does. A finished adapter is kept among the checkpoints, and read from there, until the merged one is written: a
killed run trains it only once, and ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from relearn.core import distributed
from relearn.core.config import Model, Unlearn
from relearn.core.errors import InputError
from relearn.core.files import replaced_dir
from relearn.models.load import check_adapter
from relearn.models.lora import save_adapter
from relearn.unlearning import train
from relearn.unlearning.losses.npo import NPO
from relearn.unlearning.method import METHODS, Batch, Method, Need, Parts, not_negative, positive
from relearn.unlearning.procedures import Job, procedure

FAMILY = "weight arithmetic"
# The method whose objective both adapters are trained with.
TRAINED_WITH = "npo_klr"
OVER = {"beta": 0.1, "forget_weight": 0.4, "retain_kl": 0.4, "retain_nll": 0.2}
UNDER = {"beta": 0.1, "forget_weight": 0.3, "retain_kl": 0.3, "retain_nll": 0.4}


@dataclass(frozen=True)
class TaskVector:
    """The training that gives theta_ft."""

    alpha: float = 1.0
    needs: frozenset[Need] = field(default=frozenset({"forget"}), init=False)

    def __post_init__(self) -> None:
        positive(alpha=self.alpha)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        parts = {"nll": batch.forget.mean_nll()}
        return parts["nll"], parts


@dataclass(frozen=True)
class Ties:
    """`over` and `under` are the objectives of the two adapters; called, it is what both come to."""

    over: NPO
    under: NPO
    weights: tuple[float, float] = (1.0, 1.0)
    density: float = 0.8

    def __post_init__(self) -> None:
        if len(self.weights) != 2:
            raise ValueError(f"weights are {list(self.weights)!r}: give two, of the over- and the under-forgetting one")
        not_negative(**{f"weights[{place}]": weight for place, weight in enumerate(self.weights)})
        positive(density=self.density)
        if self.density >= 1:
            raise ValueError(f"density is {self.density!r}: give the share of numbers to keep, below 1")

    @property
    def needs(self) -> frozenset[Need]:
        return self.over.needs | self.under.needs

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]:
        parts = {"over": self.over(batch)[0], "under": self.under(batch)[0]}
        return parts["over"] + parts["under"], parts


def _ties(over: Mapping[str, Any], under: Mapping[str, Any], weights: Sequence[float], density: float) -> Ties:
    first, second = (
        METHODS.get(TRAINED_WITH).objective({**given, **own}) for given, own in ((OVER, over), (UNDER, under))
    )
    assert isinstance(first, NPO) and isinstance(second, NPO)
    return Ties(first, second, tuple(weights), density)  # pyright: ignore[reportArgumentType]


METHODS.add(
    "task_vector",
    Method(
        "task_vector",
        FAMILY,
        "Ilharco et al. 2023, arXiv 2212.04089",
        TaskVector,
        {"alpha": 1.0},
        "original",
        "task_vector",
    ),
)
METHODS.add(
    "ties",
    Method(
        "ties",
        FAMILY,
        "Xu et al. 2025, arXiv 2503.21088",
        _ties,
        {"over": OVER, "under": UNDER, "weights": [1.0, 1.0], "density": 0.8},
        "original",
        "ties",
    ),
)


Start = Mapping[str, torch.Tensor]


def _check(model: Model, settings: Unlearn) -> None:
    _chosen(settings)
    if settings.full and distributed.shards_weights():
        raise InputError(
            "a task vector of a whole model in shards cannot be worked out",
            where="unlearn.full",
            way_out="use LoRA, or launch with DDP",
        )


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


ADAPTERS = ("over", "under")


def _check_ties(model: Model, settings: Unlearn) -> None:
    _chosen_ties(settings)
    if settings.full:
        raise InputError("ties merges two LoRA adapters", where="unlearn.full", way_out="leave it out")
    if settings.evaluate_every:
        raise InputError(
            "what comes out of ties is there only when both adapters are trained",
            where="unlearn.evaluate_every",
            way_out="leave it out",
        )
    if distributed.shards_weights():
        raise InputError("ties cannot train its two adapters on a model in shards", way_out="launch with DDP")


@procedure("ties", check=_check_ties)
def ties(job: Job) -> None:
    """Train both adapters, merge them and write adapter/."""
    chosen = _chosen_ties(job.settings)
    objectives = (chosen.over, chosen.under)
    folders = [_adapter(job, name, objective) for name, objective in zip(ADAPTERS, objectives, strict=True)]
    train.save_trained(job, merged(job.loaded.model, folders, chosen))


def merged(model: Any, folders: list[Path], chosen: Ties) -> Any:
    """`model` with one adapter on it, the TIES merge of those in `folders`."""
    from peft import PeftModel

    for folder in folders:
        check_adapter(folder)
    with_both = PeftModel.from_pretrained(model, str(folders[0]), adapter_name=ADAPTERS[0], use_safetensors=True)
    with_both.load_adapter(str(folders[1]), adapter_name=ADAPTERS[1], use_safetensors=True)
    with_both.base_model.add_weighted_adapter(  # pyright: ignore[reportCallIssue]
        list(ADAPTERS), list(chosen.weights), "default", combination_type="ties", density=chosen.density
    )
    with_both.set_adapter("default")
    for name in ADAPTERS:
        with_both.delete_adapter(name)
    return with_both.eval()


def _adapter(job: Job, name: str, objective: NPO) -> Path:
    """The folder of a trained adapter; it is trained only if it is not there."""
    folder = job.folder / train.CHECKPOINTS / f"ties-{name}-adapter"
    if not distributed.on_main(folder.exists):
        model = train.trained(_half(job, name, objective), name=f"ties-{name}")
        with replaced_dir(folder) as target:
            save_adapter(model, target)
        model.unload()
    distributed.barrier()
    return folder


def _half(job: Job, name: str, objective: NPO) -> Job:
    """The training of one adapter; its steps are logged as the first or the second half of the method's."""
    budget = job.settings.token_budget
    settings = job.settings.model_copy(
        update={
            "method": TRAINED_WITH,
            "options": {"beta": objective.beta, "forget_weight": objective.forget_weight, **asdict(objective.retain)},
            "epochs": job.settings.epochs / 2,
            "token_budget": max(1, budget // 2) if budget else None,
        }
    )
    method = METHODS.get(TRAINED_WITH)
    plan = train.unlearn_batches(job.loaded.chat, method, job.material, settings, job.seed)
    steps = math.ceil(len(plan) / settings.accumulation)
    done = steps * ADAPTERS.index(name)
    return replace(
        job,
        settings=settings,
        log=_renamed(job.log, name, done),
        tick=lambda at, total=None: job.tick(at + done, 2 * steps),
    )


def _renamed(log: Callable[..., None], name: str, done: int) -> Callable[..., None]:
    def row(*, step: int, parts: dict[str, float], **others: Any) -> None:
        log(step=step + done, parts={f"{name}_{part}": value for part, value in parts.items()}, **others)

    return row


def _chosen_ties(settings: Unlearn) -> Ties:
    chosen = METHODS.get(settings.method).objective(settings.options)
    assert isinstance(chosen, Ties)
    return chosen
