"""Run the two trainings of a run: learn a start model from records, and unlearn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from relearn.core import distributed
from relearn.core.config import Learn, Recipe, Unlearn
from relearn.core.console import Ticker, quiet
from relearn.core.distributed import whole_state
from relearn.core.errors import InputError
from relearn.core.files import remove_tree, replaced_dir
from relearn.data import Record, content_id
from relearn.engine.forward import TokenRow
from relearn.models.chat import ChatFormat
from relearn.models.load import Loaded
from relearn.models.lora import add_lora, ready_for_autocast, save_adapter
from relearn.unlearning.callbacks import KeepBest, make_trajectory
from relearn.unlearning.data.batches import MicroBatch, can_share, plan_batches
from relearn.unlearning.data.encode import Example, encode, record_example
from relearn.unlearning.data.streams import TrainingData, streams
from relearn.unlearning.masks.mask import make_mask
from relearn.unlearning.method import METHODS, LogRow, Method
from relearn.unlearning.procedures import PROCEDURES, Job, procedure
from relearn.unlearning.trainer import Loop, train

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
    """Train a LoRA adapter on `records` with their original answers, and save it as folder/start."""
    rows = encode(loaded.chat, [record_example(record) for record in records])
    batches = plan_batches(
        rows, (), batch_size=settings.batch_size, accumulation=settings.accumulation, epochs=settings.epochs, seed=seed
    )
    model = add_lora(loaded.model, settings.lora, seed=seed, where="learn.lora")
    objective = METHODS.get("relearn_gdf").objective({})
    autocast = settings.precision == "bfloat16"
    if autocast:
        ready_for_autocast(model)
    loop = Loop(settings.learning_rate, accumulation=settings.accumulation, autocast=autocast, seed=seed)
    train(model, batches, objective, loop=loop, checkpoints=folder / CHECKPOINTS / "learn", log=log, tick=tick)
    with replaced_dir(folder / "start") as target:
        save_adapter(model, target)


@procedure("train")
def unlearn(job: Job) -> None:
    """Run unlearning with the recipe's method, and save folder/adapter, or folder/model under full fine-tuning."""
    save_trained(job, trained(job))


def save_trained(job: Job, model: Any) -> None:
    """Save the model as folder/adapter, or folder/model under full fine-tuning, and remove the checkpoints."""
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
    """Train the start model with the recipe's method, and return the trained model.

    A fresh adapter is trained, or all weights under full fine-tuning. A given `model` is trained instead, without a
    fresh adapter. `name` separates the checkpoints of several trainings in one run. With `job.evaluate` the model is
    scored every `evaluate_every` steps; with `keep_best` the best weights are returned. Raises InputError when the
    method has retain terms and there are no retain rows.
    """
    settings = job.settings
    method = METHODS.get(settings.method)
    objective = method.objective(settings.options)
    # ReLearn also works without retain terms (relearn_gdf); other methods would diverge without their retain terms.
    if "retain" in objective.needs and not job.data.retain and method.family != "relearn":
        raise InputError(
            f"{settings.method} has retain terms and there are no retain rows",
            where="data.retain",
            way_out="give some, or a method without retain terms",
        )
    batches = unlearn_batches(job.loaded.chat, method, job.data, settings=settings, seed=job.seed)
    model = _trainable(job) if model is None else model
    if settings.precision == "bfloat16":
        ready_for_autocast(model)
    callbacks: list[TrainerCallback] = []
    if settings.mask:
        callbacks.append(make_mask(settings.mask, model, batches, original_rows(job)))
    # Trainings with another name are parts of a method, whose trajectory is not that of the unlearned model.
    if settings.trajectory and name == "unlearn":
        callbacks.append(_trajectory(job, settings.trajectory))
    best = None
    if job.evaluate is not None and settings.evaluate_every:
        folder = job.folder / CHECKPOINTS / "best"
        best = KeepBest(model, job.evaluate, every=settings.evaluate_every, folder=folder, log=job.log)
        callbacks.append(best)
    loop, checkpoints = _loop(settings, job.seed), job.folder / CHECKPOINTS / name
    train(
        model, batches, objective, loop=loop, checkpoints=checkpoints, log=job.log, tick=job.tick, callbacks=callbacks
    )
    if best and settings.keep_best:
        best.restore()
    return model


def original_rows(job: Job) -> list[TokenRow]:
    """Encode the original answers to be forgotten, from which masks are found whatever the method trains on."""
    return encode(job.loaded.chat, [record_example(record) for record in job.data.records])


def _trainable(job: Job) -> Any:
    if not job.settings.full:
        return add_lora(job.loaded.model, job.settings.lora, seed=job.seed)
    job.loaded.model.requires_grad_(True)
    return job.loaded.model


def _trajectory(job: Job, every: int) -> TrainerCallback:
    autocast = job.settings.precision == "bfloat16"
    length = job.settings.max_length
    return make_trajectory(job.loaded.chat, job.data, job.folder, every=every, length=length, autocast=autocast)


def unlearn_batches(
    chat: ChatFormat, method: Method, data: TrainingData, *, settings: Unlearn, seed: int
) -> list[MicroBatch]:
    """Plan the micro-batches of a method's training: all its streams, with as many retain rows as forget rows."""
    rows = streams(method.data, data, seed)
    length = settings.max_length
    paired = {
        stream: {id_: encode(chat, examples, max_length=length) for id_, examples in table.items()}
        for stream, table in rows.paired.items()
    }
    return plan_batches(
        encode(chat, rows.forget, max_length=length),
        encode(chat, retain_examples(data.retain), max_length=length),
        batch_size=settings.batch_size,
        accumulation=settings.accumulation,
        epochs=settings.epochs,
        seed=seed,
        paired=paired,
        token_budget=settings.token_budget,
    )


def retain_examples(records: Sequence[Record]) -> list[Example]:
    """Make an example of every wording of every retain record.

    Training on a single wording does not keep the answers to the other wordings.
    """
    wordings = [(record, record.question) for record in records]
    wordings += [(record, paraphrase) for record in records for paraphrase in record.paraphrases]
    return [
        replace(record_example(record), id=content_id(record.id, question), prompt=question)
        for record, question in wordings
    ]


def check_sharing(recipe: Recipe, processes: int) -> None:
    """Raise InputError for settings that do not work with this number of processes."""
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
            "a sharded model cannot be evaluated during training",
            where="unlearn.evaluate_every",
            way_out="leave it out, or launch with DDP",
        )


def _loop(settings: Unlearn, seed: int) -> Loop:
    return Loop(
        settings.learning_rate,
        accumulation=settings.accumulation,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        schedule=settings.schedule,
        max_grad_norm=settings.max_grad_norm,
        checkpoint_every=settings.checkpoint_every,
        runaway_loss=settings.runaway_loss,
        gradient_checkpointing=settings.gradient_checkpointing,
        autocast=settings.precision == "bfloat16",
        report_to=settings.report_to,
        seed=seed,
    )


def training_passes(recipe: Recipe, learn_rows: int, unlearn_rows: int, retain_rows: int) -> int:
    """Estimate the number of forward and backward passes of rows in the learn and unlearn stages."""
    passes = learn_rows * (recipe.learn.epochs if recipe.learn else 0)
    retain_passes = unlearn_rows if retain_rows else 0
    return round(passes + (unlearn_rows + retain_passes) * recipe.unlearn.epochs)
