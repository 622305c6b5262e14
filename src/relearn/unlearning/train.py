"""The two trainings of a run: learning a start model from records, and unlearning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from relearn.core import distributed
from relearn.core.config import Learn, Recipe, Unlearn
from relearn.core.console import Ticker, quiet
from relearn.core.errors import InputError
from relearn.core.files import remove_tree, replaced_dir
from relearn.data import Record, content_id
from relearn.models.chat import ChatFormat
from relearn.models.load import Loaded
from relearn.models.lora import add_lora, ready_for_autocast, save_adapter
from relearn.models.sharding import whole_state
from relearn.unlearning.callbacks import KeepBest, make_trajectory
from relearn.unlearning.data.batches import MicroBatch, can_share, plan_batches
from relearn.unlearning.data.encode import Example, encode, record_example
from relearn.unlearning.data.streams import Material, streams
from relearn.unlearning.masks.mask import make_mask
from relearn.unlearning.method import METHODS, Method
from relearn.unlearning.procedures import PROCEDURES, Job, procedure
from relearn.unlearning.trainer import LogRow, Loop, train

CHECKPOINTS = "checkpoints"


def learn(
    loaded: Loaded,
    records: Sequence[Record],
    settings: Learn,
    *,
    folder: Path,
    seed: int,
    log: LogRow,
    tick: Ticker = quiet,
) -> None:
    """Train a LoRA adapter on `records` as they stand and save it as folder/start."""
    rows = encode(loaded.chat, [record_example(record) for record in records])
    batches = plan_batches(
        rows, (), batch_size=settings.batch_size, accumulation=settings.accumulation, epochs=settings.epochs, seed=seed
    )
    model = add_lora(loaded.model, settings.lora, seed=seed)
    objective = METHODS.get("relearn_gdf").objective({})
    autocast = settings.precision == "bfloat16"
    if autocast:
        ready_for_autocast(model)
    loop = Loop(settings.learning_rate, settings.accumulation, autocast=autocast, seed=seed)
    train(model, batches, objective, loop, checkpoints=folder / CHECKPOINTS / "learn", log=log, tick=tick)
    with replaced_dir(folder / "start") as target:
        save_adapter(model, target)


@procedure("train")
def unlearn(job: Job) -> None:
    """Train the recipe's method and save folder/adapter, or folder/model under full fine-tuning."""
    save_trained(job, trained(job))


def save_trained(job: Job, model: Any) -> None:
    """Save folder/adapter, or folder/model under full fine-tuning; checkpoints are not needed any more."""
    with replaced_dir(job.folder / PROCEDURES.get("train").result_name(job.settings)) as target:
        if job.settings.full:
            state = whole_state(model)
            if distributed.is_main():
                model.save_pretrained(str(target), safe_serialization=True, state_dict=state)
            job.loaded.tokenizer.save_pretrained(str(target))
        else:
            save_adapter(model, target)
    remove_tree(job.folder / CHECKPOINTS)


def trained(job: Job, *, model: Any = None, name: str = "unlearn") -> Any:
    """The start model with what the method taught it: a fresh adapter on top, or itself under full fine-tuning.

    `model` is trained in the place of the start model, as it is. `name` keeps apart the checkpoints of several
    trainings in one run. With `job.evaluate` the model is asked every `evaluate_every` steps, and the best weights are
    the ones kept when `keep_best` is set.
    """
    settings = job.settings
    method = METHODS.get(settings.method)
    objective = method.objective(settings.options)
    # ReLearn's forget term alone is a method of its own; the others would run away with nothing to hold them.
    if "retain" in objective.needs and not job.material.retain and method.family != "relearn":
        raise InputError(
            f"{settings.method} holds retain rows in place and there are none",
            where="data.retain",
            way_out="give some, or a method without retain terms",
        )
    batches = unlearn_batches(job.loaded.chat, method, job.material, settings, job.seed)
    if model is None:
        model = job.loaded.model
        if settings.full:
            model.requires_grad_(True)
        else:
            model = add_lora(model, settings.lora, seed=job.seed)
    if settings.precision == "bfloat16":
        ready_for_autocast(model)
    callbacks: list[TrainerCallback] = []
    if settings.mask:
        callbacks.append(make_mask(settings.mask, model, batches))
    # A procedure of several trainings has one that changes the model to be unlearned.
    if settings.trajectory and name == "unlearn":
        callbacks.append(
            make_trajectory(
                job.loaded.chat,
                job.material,
                settings.trajectory,
                job.folder,
                length=settings.max_length,
                autocast=settings.precision == "bfloat16",
            )
        )
    best = None
    if job.evaluate is not None and settings.evaluate_every:
        best = KeepBest(model, job.evaluate, settings.evaluate_every, job.folder / CHECKPOINTS / "best", job.log)
        callbacks.append(best)
    train(
        model,
        batches,
        objective,
        _loop(settings, job.seed),
        checkpoints=job.folder / CHECKPOINTS / name,
        log=job.log,
        tick=job.tick,
        callbacks=callbacks,
    )
    if best and settings.keep_best:
        best.restore()
    return model


def unlearn_batches(
    chat: ChatFormat, method: Method, material: Material, settings: Unlearn, seed: int
) -> list[MicroBatch]:
    """The plan of a method's training: its forget stream with what belongs to it, and retain rows beside."""
    made = streams(method.data, material, seed)
    length = settings.max_length
    beside = {
        name: {id_: encode(chat, examples, max_length=length) for id_, examples in table.items()}
        for name, table in made.beside.items()
    }
    return plan_batches(
        encode(chat, made.forget, max_length=length),
        encode(chat, retain_examples(material.retain), max_length=length),
        batch_size=settings.batch_size,
        accumulation=settings.accumulation,
        epochs=settings.epochs,
        seed=seed,
        beside=beside,
        token_budget=settings.token_budget,
    )


def retain_examples(records: Sequence[Record]) -> list[Example]:
    """Every retain record in each of its wordings: what is held in one wording only is easily lost in another."""
    wordings = [(record, record.question) for record in records]
    wordings += [(record, paraphrase) for record in records for paraphrase in record.paraphrases]
    return [
        replace(record_example(record), id=content_id(record.id, question), prompt=question)
        for record, question in wordings
    ]


def check_sharing(recipe: Recipe, processes: int) -> None:
    """Raises InputError for what cannot be done by so many processes."""
    if processes == 1:
        return
    for name, settings in (("learn", recipe.learn), ("unlearn", recipe.unlearn)):
        if settings and not can_share(settings.batch_size, settings.accumulation, processes):
            raise InputError(
                f"a step has {settings.batch_size} x {settings.accumulation} rows, which {processes} processes "
                "cannot share evenly",
                where=name,
                way_out=f"make batch_size x accumulation a multiple of {processes}, or start fewer",
            )
    if ":" in recipe.model.device:
        raise InputError(
            f"every process has a GPU of its own, and {recipe.model.device!r} names one for all",
            where="model.device",
            way_out="leave it auto",
        )
    if recipe.unlearn.evaluate_every and distributed.shards_weights():
        raise InputError(
            "a model in shards cannot be asked while it is trained",
            where="unlearn.evaluate_every",
            way_out="leave it out, or launch with DDP",
        )


def _loop(settings: Unlearn, seed: int) -> Loop:
    return Loop(
        settings.learning_rate,
        settings.accumulation,
        settings.weight_decay,
        settings.warmup,
        settings.schedule,
        settings.max_grad_norm,
        settings.checkpoint_every,
        settings.runaway_loss,
        settings.gradient_checkpointing,
        settings.precision == "bfloat16",
        settings.report_to,
        seed,
    )


def training_passes(recipe: Recipe, learn_rows: int, unlearn_rows: int, retain_rows: int) -> int:
    """Rows that go through the model forward and backward in all stages, for estimates."""
    passes = learn_rows * (recipe.learn.epochs if recipe.learn else 0)
    beside = unlearn_rows if retain_rows else 0
    return round(passes + (unlearn_rows + beside) * recipe.unlearn.epochs)
