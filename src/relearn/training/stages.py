"""The two trainings of a run: learning a start model from records, and unlearning."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from relearn.config import Learn, Recipe, Unlearn
from relearn.console import Ticker, quiet
from relearn.models.chat import ChatFormat
from relearn.models.forward import TokenRow
from relearn.models.load import Loaded
from relearn.models.lora import add_lora, save_adapter
from relearn.objectives.base import METHODS
from relearn.records import Record, content_id
from relearn.rundir import replaced_dir
from relearn.synthesis.rows import TrainingRow
from relearn.tokens.batches import MicroBatch, plan_batches
from relearn.tokens.encode import Example, encode, record_example
from relearn.training.best import KeepBest
from relearn.training.trainer import LogRow, Loop, train

CHECKPOINTS = "checkpoints"


def learn(
    loaded: Loaded, records: Sequence[Record], settings: Learn, *, folder: Path, seed: int, log: LogRow,
    tick: Ticker = quiet,
) -> None:  # fmt: skip
    """Train a LoRA adapter on `records` as they stand and save it as folder/start."""
    rows = encode(loaded.chat, [record_example(record) for record in records])
    batches = plan_batches(
        rows, (), batch_size=settings.batch_size, accumulation=settings.accumulation, epochs=settings.epochs, seed=seed
    )
    model = add_lora(loaded.model, settings.lora, seed=seed)
    objective = METHODS.get("relearn_gdf").objective({})
    loop = Loop(settings.learning_rate, settings.accumulation, seed=seed)
    train(model, batches, objective, loop, checkpoints=folder / CHECKPOINTS / "learn", log=log, tick=tick)
    with replaced_dir(folder / "start") as target:
        save_adapter(model, target)


def unlearn(
    loaded: Loaded, rows: Sequence[TrainingRow], retain: Sequence[Record], settings: Unlearn, *, folder: Path,
    seed: int, log: LogRow, tick: Ticker = quiet, evaluate: Callable[[Any], float] | None = None,
) -> None:  # fmt: skip
    """Train the recipe's method and save folder/adapter, or folder/model under full fine-tuning.

    `evaluate` maps the model in training to a score (higher is better); it is called every `evaluate_every` steps and
    the best adapter is the one saved when `keep_best` is set.
    """
    objective = METHODS.get(settings.method).objective(settings.options)
    batches = unlearn_batches(loaded.chat, rows, retain, settings, seed)
    model = loaded.model
    if settings.full:
        model.requires_grad_(True)
    else:
        model = add_lora(model, settings.lora, seed=seed)
    best = None
    if evaluate is not None and settings.evaluate_every:
        best = KeepBest(model, evaluate, settings.evaluate_every, folder / CHECKPOINTS / "best", log)
    train(
        model, batches, objective, _loop(settings, seed), checkpoints=folder / CHECKPOINTS / "unlearn", log=log,
        tick=tick, callbacks=[best] if best else [],
    )  # fmt: skip
    if best and settings.keep_best:
        best.restore()
    with replaced_dir(folder / result_name(settings)) as target:
        if settings.full:
            model.save_pretrained(str(target), safe_serialization=True)
            loaded.tokenizer.save_pretrained(str(target))
        else:
            save_adapter(model, target)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def result_name(settings: Unlearn) -> str:
    """The folder in the run that holds what unlearning made."""
    return "model" if settings.full else "adapter"


def unlearn_batches(
    chat: ChatFormat, rows: Sequence[TrainingRow], retain: Sequence[Record], settings: Unlearn, seed: int
) -> list[MicroBatch]:
    """The plan of the unlearning epochs: synthesised rows, with retain rows beside them."""
    return plan_batches(
        training_token_rows(chat, rows, settings.max_length),
        encode(chat, retain_examples(retain), max_length=settings.max_length),
        batch_size=settings.batch_size, accumulation=settings.accumulation, epochs=settings.epochs, seed=seed,
    )  # fmt: skip


def retain_examples(records: Sequence[Record]) -> list[Example]:
    """Every retain record in each of its wordings: what is held in one wording only is easily lost in another."""
    wordings = [(record, record.question) for record in records]
    wordings += [(record, paraphrase) for record in records for paraphrase in record.paraphrases]
    return [
        replace(record_example(record), id=content_id(record.id, question), prompt=question)
        for record, question in wordings
    ]


def training_token_rows(chat: ChatFormat, rows: Sequence[TrainingRow], max_length: int) -> list[TokenRow]:
    return encode(chat, [Example(row.id, row.prompt, row.target, row.form) for row in rows], max_length=max_length)


def _loop(settings: Unlearn, seed: int) -> Loop:
    return Loop(
        settings.learning_rate, settings.accumulation, settings.weight_decay, settings.warmup, settings.schedule,
        settings.max_grad_norm, settings.checkpoint_every, settings.runaway_loss, settings.gradient_checkpointing,
        settings.report_to, seed,
    )  # fmt: skip


def training_passes(recipe: Recipe, learn_rows: int, unlearn_rows: int, retain_rows: int) -> int:
    """Rows that go through the model forward and backward in all stages, for estimates."""
    passes = learn_rows * (recipe.learn.epochs if recipe.learn else 0)
    beside = unlearn_rows if retain_rows else 0
    return round(passes + (unlearn_rows + beside) * recipe.unlearn.epochs)
