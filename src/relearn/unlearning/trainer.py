"""Train a model with transformers.Trainer on planned micro-batches with an objective; stop at a NaN or runaway loss.

Learning a start model and unlearning use the same loop with different rows and objectives. Several processes share one
plan: each trains on its part of every optimiser step. Losses are logged and checked as sums over all processes.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from relearn.core import distributed
from relearn.core.console import Ticker, quiet
from relearn.core.errors import InputError, RunFailedError
from relearn.core.files import read_json, remove_tree, write_json
from relearn.unlearning.data.batches import MicroBatch, own_accumulation, share
from relearn.unlearning.method import LogRow, LossTerms, Objective
from relearn.unlearning.step import freeze_unreached, make_reference, step_loss

# The option that replaces `broadcast_buffers` is not in all supported versions of torch.
warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)


@dataclass(frozen=True)
class Loop:
    """Hold the settings of a training loop, for learning and for unlearning.

    `warmup` is a share of the steps, `checkpoint_every` a number of steps, `runaway_loss` the loss that stops a run.
    """

    learning_rate: float
    _: KW_ONLY
    accumulation: int = 1
    weight_decay: float = 0.01
    warmup: float = 0.1
    schedule: str = "linear"
    max_grad_norm: float = 1.0
    checkpoint_every: int = 50
    runaway_loss: float | None = None
    gradient_checkpointing: bool = False
    autocast: bool = False
    report_to: tuple[str, ...] = ()
    seed: int = 0


_STATE = "objective.json"
_RUNAWAY = 50


def train(
    model: Any,
    batches: Sequence[MicroBatch],
    objective: Objective,
    *,
    loop: Loop,
    checkpoints: Path,
    log: LogRow,
    tick: Ticker = quiet,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train `model` in place on the micro-batches `batches`.

    Training continues from the newest complete checkpoint in the folder `checkpoints`, which is removed at the end.
    `log` gets one row of loss terms per optimiser step. Raises RunFailedError at a NaN or runaway loss.
    """
    trainer = ObjectiveTrainer(model, batches, objective, loop=loop, folder=checkpoints, log=log)
    trainer.remove_callback(PrinterCallback)
    # _Progress comes last, because it marks a checkpoint as complete after the other callbacks have written to it.
    for callback in (*callbacks, _Progress(tick, trainer)):
        trainer.add_callback(callback)
    newest = distributed.on_main(lambda: _newest_checkpoint(checkpoints))
    if newest:
        trainer.restore_state(Path(newest))
    if hasattr(model, "enable_input_require_grads") and loop.gradient_checkpointing:
        model.enable_input_require_grads()
    trainer.train(resume_from_checkpoint=newest)
    model.eval()
    remove_tree(checkpoints)


@dataclass
class StepLog:
    """Sum the losses and tokens of an optimiser step.

    `worst`: the largest loss of a micro-batch, and the ids of its first 4 forget rows.
    """

    terms: dict[str, float] = field(default_factory=dict)
    loss: float = 0.0
    tokens: int = 0
    worst: tuple[float, tuple[str, ...]] = (-math.inf, ())

    @classmethod
    def of(cls, batch: MicroBatch, loss: torch.Tensor, terms: LossTerms) -> StepLog:
        """Make the log of one micro-batch; an idle micro-batch adds nothing."""
        if batch.idle:
            return cls()
        value = float(loss.detach())
        worst = (value if math.isfinite(value) else math.inf, tuple(row.id for row in batch.forget[:4]))
        return cls({name: float(term.detach()) for name, term in terms.items()}, value, batch.tokens, worst)

    def add(self, other: StepLog) -> None:
        for name, value in other.terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value
        self.loss += other.loss
        self.tokens += other.tokens
        if other.worst[0] > self.worst[0]:
            self.worst = other.worst


class ObjectiveTrainer(Trainer):
    """Train with transformers.Trainer on planned micro-batches and the loss of an `Objective`.

    Raises InputError when the method needs the start model's predictions and they cannot be kept.
    """

    def __init__(
        self, model: Any, batches: Sequence[MicroBatch], objective: Objective, *, loop: Loop, folder: Path, log: LogRow
    ):
        count = distributed.processes()
        own = share(batches, loop.accumulation, rank=distributed.rank(), processes=count)
        super().__init__(model=model, args=_arguments(loop, len(batches), folder, _on_cpu(model)), train_dataset=own)  # pyright: ignore[reportArgumentType]
        # Losses are already divided by the token count of the whole optimiser step.
        self.loss_is_scaled_for_ga = True
        self._processes = count
        self._objective = objective
        self._loop = loop
        self._log_row = log
        self._step = StepLog()
        self._usual_loss: float | None = None
        self._state = objective.initial_state
        self._reference = make_reference(model, own, objective, autocast=loop.autocast)
        keeps_start = hasattr(model, "disable_adapter") or self._reference.exact
        # Sums of NLL and states of a layer are kept for every model; logits only where its output layer gives them.
        if objective.needed_streams("reference") and not keeps_start:
            raise InputError(
                "this model does more to its logits than its output layer, so its start cannot be kept",
                where="unlearn.full",
                way_out="use LoRA, or a method that takes no KL to the start model",
            )
        freeze_unreached(model, own[0], objective, self._reference, state=self._state)

    def restore_state(self, checkpoint: Path) -> None:
        """Read the objective's carried numbers from a checkpoint, if it has any."""
        if self._state:
            self._state = read_json(checkpoint / _STATE)

    def save_state(self, checkpoint: Path) -> None:
        """Write the objective's carried numbers into a checkpoint, if it has any."""
        if self._state:
            write_json(checkpoint / _STATE, self._state)

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=_single)  # pyright: ignore[reportArgumentType]

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> torch.Tensor:
        batch: MicroBatch = inputs["micro_batch"]
        autocast = self._loop.autocast
        loss, terms = step_loss(model, batch, self._objective, self._reference, state=self._state, autocast=autocast)
        self._step.add(StepLog.of(batch, loss, terms))
        if self.accelerator.sync_gradients:
            self._sum_over_processes()
            self._check_loss()
        # The gradient of a step is averaged over the processes, but its loss is the sum over them.
        return loss * (0 if batch.idle else self._processes)

    def end_step(self) -> None:
        """Update the objective's carried numbers for the next optimiser step."""
        self._state = self._objective.next_state(self._state, self._step.terms)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if self._step.terms:
            self._log_row(
                step=self.state.global_step,
                loss=round(logs.get("loss", math.nan), 6),
                parts={name: round(value, 6) for name, value in self._step.terms.items()},
                learning_rate=logs.get("learning_rate"),
                grad_norm=logs.get("grad_norm"),
                tokens=self._step.tokens,
                **({"state": self._state} if self._state else {}),
            )
            self._step = StepLog()

    def _sum_over_processes(self) -> None:
        step = StepLog()
        for own in distributed.gather(self._step):
            step.add(own)
        self._step = step

    def _check_loss(self) -> None:
        """Raise RunFailedError in all processes before an optimiser step with a NaN or runaway loss.

        The default limit is the larger of 50 and ten times the first loss, because the multiplier of PDU is 100.
        """
        if self._usual_loss is None and math.isfinite(self._step.loss):
            self._usual_loss = abs(self._step.loss)
        limit = self._loop.runaway_loss or max(_RUNAWAY, 10 * (self._usual_loss or 0))
        if math.isfinite(self._step.loss) and self._step.loss < limit:
            return
        rows = ", ".join(self._step.worst[1])
        error = RunFailedError(
            f"loss is {self._step.loss:.4g} at step {self.state.global_step + 1} (rows {rows})",
            way_out="lower unlearn.learning_rate, use dtype float32 or bfloat16, or look at those rows",
        )
        raise distributed.everywhere(error)


def _single(items: list[MicroBatch]) -> dict[str, MicroBatch]:
    return {"micro_batch": items[0]}


def _on_cpu(model: Any) -> bool:
    return next(model.parameters()).device.type == "cpu"


def _arguments(loop: Loop, micro_batches: int, folder: Path, on_cpu: bool) -> TrainingArguments:
    steps = math.ceil(micro_batches / loop.accumulation)
    recompute: dict[str, Any] = {"gradient_checkpointing": True} if loop.gradient_checkpointing else {}
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=own_accumulation(loop.accumulation, distributed.processes()),
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
        ddp_find_unused_parameters=False,
        # The number of passes for a micro-batch may differ between processes, so a pass must not synchronise them.
        ddp_broadcast_buffers=False,
        **recompute,
        # Trainer would move a model from the CPU to a GPU.
        use_cpu=on_cpu,
    )
    # With several GPUs and no launcher Trainer would split each batch, and packed rows cannot be split.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _newest_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint, and remove incomplete ones."""
    if not folder.exists():
        return None
    while (newest := get_last_checkpoint(str(folder))) is not None:
        if (Path(newest) / "complete").exists():
            return newest
        shutil.rmtree(newest)
    return None


class _Progress(TrainerCallback):
    """Update the progress bar, mark checkpoints as complete and remove Trainer's pickled arguments from them.

    A checkpoint is complete when every process has written its part.
    """

    def __init__(self, tick: Ticker, trainer: ObjectiveTrainer):
        self._tick = tick
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.end_step()
        self._tick(state.global_step, state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._trainer.save_state(folder)
        distributed.barrier()
        if not distributed.is_main():
            return
        (folder / "training_args.bin").unlink(missing_ok=True)
        (folder / "complete").touch(mode=0o600)
