"""TIES merge of an adapter that forgets too much and one that forgets too little (arXiv 2503.21088).

Each is trained from the start model with half of the epochs or of the token budget, so that the method costs what any
other does. A finished adapter is kept among the checkpoints, and read from there, until the merged one is written: a
killed run trains it only once, and ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from relearn.core import distributed
from relearn.core.config import Model, Unlearn
from relearn.core.errors import InputError
from relearn.core.run_dir import replaced_dir
from relearn.models.load import check_adapter
from relearn.models.lora import save_adapter
from relearn.objectives.arithmetic import TRAINED_WITH, Ties
from relearn.unlearning import train
from relearn.unlearning.losses.npo import NPO
from relearn.unlearning.method import METHODS
from relearn.unlearning.procedures import Job, procedure

ADAPTERS = ("over", "under")


def _check(model: Model, settings: Unlearn) -> None:
    _chosen(settings)
    if settings.full:
        raise InputError("ties merges two LoRA adapters", where="unlearn.full", way_out="leave it out")
    if settings.evaluate_every:
        raise InputError(
            "what comes out of ties is there only when both adapters are trained", where="unlearn.evaluate_every",
            way_out="leave it out",
        )  # fmt: skip
    if distributed.shards_weights():
        raise InputError("ties cannot train its two adapters on a model in shards", way_out="launch with DDP")


@procedure("ties", check=_check)
def ties(job: Job) -> None:
    """Train both adapters, merge them and write adapter/."""
    chosen = _chosen(job.settings)
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
            "options": {
                "beta": objective.beta, "forget_weight": objective.forget_weight, **asdict(objective.retain),
            },
            "epochs": job.settings.epochs / 2,
            "token_budget": max(1, budget // 2) if budget else None,
        }
    )  # fmt: skip
    method = METHODS.get(TRAINED_WITH)
    plan = train.unlearn_batches(job.loaded.chat, method, job.material, settings, job.seed)
    steps = math.ceil(len(plan) / settings.accumulation)
    done = steps * ADAPTERS.index(name)
    return replace(
        job, settings=settings, log=_renamed(job.log, name, done),
        tick=lambda at, total=None: job.tick(at + done, 2 * steps),
    )  # fmt: skip


def _renamed(log: Callable[..., None], name: str, done: int) -> Callable[..., None]:
    def row(*, step: int, parts: dict[str, float], **others: Any) -> None:
        log(step=step + done, parts={f"{name}_{part}": value for part, value in parts.items()}, **others)

    return row


def _chosen(settings: Unlearn) -> Ties:
    chosen = METHODS.get(settings.method).objective(settings.options)
    assert isinstance(chosen, Ties)
    return chosen
