"""Training on transformers.Trainer: a planned list of micro-batches, an objective, and an eye on the loss.

Learning a start model and unlearning are the same loop with different rows and objectives.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from relearn.console import Ticker, quiet
from relearn.errors import InputError, RunFailedError
from relearn.models.forward import TokenRow, answer_logits, answer_targets
from relearn.objectives.base import Batch, Objective
from relearn.objectives.scored import Scored
from relearn.tokens.batches import MicroBatch
from relearn.training.reference import Reference


@dataclass(frozen=True)
class Loop:
    """Settings of one training loop, for learning and unlearning alike."""

    learning_rate: float
    accumulation: int = 1
    weight_decay: float = 0.01
    warmup: float = 0.1
    schedule: str = "linear"
    max_grad_norm: float = 1.0
    checkpoint_every: int = 50
    runaway_loss: float = 50.0
    gradient_checkpointing: bool = False
    report_to: tuple[str, ...] = ()
    seed: int = 0


LogRow = Callable[..., None]


def train(
    model: Any,
    batches: Sequence[MicroBatch],
    objective: Objective,
    loop: Loop,
    *,
    checkpoints: Path,
    log: LogRow,
    tick: Ticker = quiet,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train `model` in place over `batches`.

    `checkpoints` is a folder of the caller's: training goes on from the newest complete checkpoint there and removes
    the folder when it is done. `log` gets one row of loss parts per optimiser step. Raises RunFailedError on a NaN or
    runaway loss.
    """
    trainer = ObjectiveTrainer(model, batches, objective, loop, checkpoints, log)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress(tick))
    for callback in callbacks:
        trainer.add_callback(callback)
    newest = _newest_checkpoint(checkpoints)
    if hasattr(model, "enable_input_require_grads") and loop.gradient_checkpointing:
        model.enable_input_require_grads()
    trainer.train(resume_from_checkpoint=newest)
    model.eval()
    shutil.rmtree(checkpoints, ignore_errors=True)


class ObjectiveTrainer(Trainer):
    """transformers.Trainer fed with planned micro-batches; the loss is an `Objective`'s."""

    def __init__(
        self, model: Any, batches: Sequence[MicroBatch], objective: Objective, loop: Loop, folder: Path, log: LogRow
    ):
        super().__init__(model=model, args=_arguments(loop, len(batches), folder), train_dataset=list(batches))  # pyright: ignore[reportArgumentType]
        # Every micro-batch is already divided by the tokens of its whole optimiser step.
        self.loss_is_scaled_for_ga = True
        self._objective = objective
        self._loop = loop
        self._log_row = log
        self._parts: dict[str, float] = {}
        self._tokens = 0
        self._reference = Reference(model, _reference_rows(batches, objective))
        if "retain_reference" in objective.needs and not (self._reference.exact or hasattr(model, "disable_adapter")):
            raise InputError(
                "this model does more to its logits than its output layer, so its start cannot be kept",
                where="unlearn.full", way_out="use LoRA, or options: {retain_kl: 0}",
            )  # fmt: skip

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=_single)  # pyright: ignore[reportArgumentType]

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> torch.Tensor:
        batch: MicroBatch = inputs["micro_batch"]
        seen = self._see(model, batch)
        loss, parts = self._objective(seen)
        self._watch(loss, batch)
        for name, value in parts.items():
            self._parts[name] = self._parts.get(name, 0.0) + float(value.detach())
        self._tokens += sum(len(row.ids) for row in (*batch.forget, *batch.retain))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if self._parts:
            self._log_row(
                step=self.state.global_step, loss=round(logs.get("loss", math.nan), 6),
                parts={name: round(value, 6) for name, value in self._parts.items()},
                learning_rate=logs.get("learning_rate"), grad_norm=logs.get("grad_norm"), tokens=self._tokens,
            )  # fmt: skip
            self._parts, self._tokens = {}, 0

    def _see(self, model: Any, batch: MicroBatch) -> Batch:
        """One forward over forget and retain rows together, and the reference of the retain rows where it is needed."""
        needs = self._objective.needs
        retain = batch.retain if "retain" in needs else ()
        logits = answer_logits(model, [*batch.forget, *retain])
        cut = sum(row.answer_tokens for row in batch.forget)
        forget = _scored(logits[:cut], batch.forget, batch.step_forget_tokens)
        if not retain:
            return Batch(forget)
        kept = _scored(logits[cut:], retain, batch.step_retain_tokens)
        reference = self._reference.logits(retain) if "retain_reference" in needs else None
        return Batch(forget, kept, reference)

    def _watch(self, loss: torch.Tensor, batch: MicroBatch) -> None:
        value = float(loss.detach())
        if math.isfinite(value) and value < self._loop.runaway_loss:
            return
        rows = ", ".join(row.id for row in batch.forget[:4])
        raise RunFailedError(
            f"loss is {value:.4g} at step {self.state.global_step + 1} (rows {rows})",
            way_out="lower unlearn.learning_rate, use dtype float32 or bfloat16, or look at those rows",
        )


def _reference_rows(batches: Sequence[MicroBatch], objective: Objective) -> list[TokenRow]:
    """The retain rows of the whole plan, each once, in the order of their ids; none when no reference is needed."""
    if "retain_reference" not in objective.needs:
        return []
    rows = {row.id: row for batch in batches for row in batch.retain}
    return [rows[name] for name in sorted(rows)]


def _scored(logits: torch.Tensor, rows: Sequence[TokenRow], step_tokens: int) -> Scored:
    targets, owner = answer_targets(rows, logits.device)
    return Scored(logits, targets, owner, len(rows), step_tokens)


def _single(items: list[MicroBatch]) -> dict[str, MicroBatch]:
    return {"micro_batch": items[0]}


def _arguments(loop: Loop, micro_batches: int, folder: Path) -> TrainingArguments:
    steps = math.ceil(micro_batches / loop.accumulation)
    recompute: dict[str, Any] = {"gradient_checkpointing": True} if loop.gradient_checkpointing else {}
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=loop.accumulation,
        num_train_epochs=1,
        learning_rate=loop.learning_rate,
        weight_decay=loop.weight_decay,
        warmup_steps=round(loop.warmup * steps),
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(loop.schedule, loop.schedule),
        max_grad_norm=loop.max_grad_norm,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=loop.checkpoint_every,
        save_total_limit=2,
        report_to=list(loop.report_to) or "none",
        seed=loop.seed,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **recompute,
        use_cpu=not torch.cuda.is_available(),
    )


def _newest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; Trainer writes trainer_state.json last but for arguments."""
    if not folder.exists():
        return None
    while (newest := get_last_checkpoint(str(folder))) is not None:
        if (Path(newest) / "complete").exists():
            return newest
        shutil.rmtree(newest)
    return None


class _Progress(TrainerCallback):
    """Ticks the bar, marks checkpoints complete and removes the pickled arguments Trainer leaves in them."""

    def __init__(self, tick: Ticker):
        self._tick = tick

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tick(state.global_step, state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / "training_args.bin").unlink(missing_ok=True)
        (folder / "complete").touch(mode=0o600)
