"""Freeze selected rows of the trained tensors in a training, bit for bit.

A mask is a frozen dataclass whose fields are its options. Its `find` selects the rows that may change; `RowMask`
freezes the others. A new mask is one new file in this package.

The accumulated, clipped gradient of a frozen row is set to zero before the optimiser's step. The row is restored after
the step, so that momentum and weight decay do not change it. The gradient of a tensor with only frozen rows is removed,
so that the optimiser skips it. During the step, memory holds a copy of each tensor with some frozen rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import DistributedType
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback

from relearn.core import config, distributed
from relearn.core.errors import InputError
from relearn.core.registry import Registry, suggest
from relearn.engine.forward import TokenRow
from relearn.unlearning.data.batches import MicroBatch

FILE = "mask.safetensors"


@dataclass(frozen=True)
class _Frozen:
    """Hold a trained tensor and its frozen rows, (rows, 1, ...) bool; `all`: every row is frozen."""

    weight: torch.nn.Parameter
    rows: torch.Tensor
    all: bool


class RowMask(TrainerCallback):
    """Freeze all rows of the trained tensors except those in `moving`: (rows,) bool by tensor name.

    With `every`, `find` selects the rows again every `every` steps. Checkpoints contain the mask, so that a resumed
    training continues with the same mask. Raises InputError under DeepSpeed.
    """

    def __init__(
        self,
        moving: Mapping[str, torch.Tensor],
        find: Callable[[Any], Mapping[str, torch.Tensor]] | None = None,
        every: int | None = None,
    ):
        self.moving = {name: rows.cpu() for name, rows in moving.items()}
        self._find = find
        self._every = every
        self._frozen: list[_Frozen] = []
        self._before: list[tuple[_Frozen, torch.Tensor]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if args.distributed_state.distributed_type == DistributedType.DEEPSPEED:
            raise InputError(
                "DeepSpeed steps its optimiser where a mask cannot reach it",
                where="unlearn.mask",
                way_out="launch with DDP or FSDP, or leave the mask out",
            )
        saved = Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE
        if state.global_step and saved.exists():
            self.moving = load_file(saved)
        self._attach(model)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._before = []
        for frozen in self._frozen:
            if frozen.all or frozen.weight.grad is None:
                frozen.weight.grad = None
                continue
            _local(frozen.weight.grad).masked_fill_(frozen.rows, 0)
            self._before.append((frozen, _local(frozen.weight.detach()).clone()))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for frozen, before in self._before:
            weight = _local(frozen.weight.detach())
            torch.where(frozen.rows, before, weight, out=weight)
        self._before = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        due = self._every and state.global_step % self._every == 0 and state.global_step < state.max_steps
        if due and self._find:
            self.moving = {name: rows.cpu() for name, rows in self._find(model).items()}
            self._attach(model)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            save_file(self.moving, Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE)

    def _attach(self, model: Any) -> None:
        """Apply the mask of the main process to the weights of `model` in all processes, also to sharded weights.

        Raises InputError for sharded weights with `every`.
        """
        weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if self._every and any(isinstance(weight, DTensor) for weight in weights.values()):
            raise InputError(
                "a mask cannot be found again from sharded weights",
                where="unlearn.mask.options.every",
                way_out="leave `every` out",
            )
        own = {name: self.moving[name] for name in weights}
        # Rounding may differ between processes, so all use the mask of the main process.
        self.moving = distributed.gather(own if distributed.is_main() else {})[0]
        self._frozen = [
            _Frozen(weight, _own_rows(~self.moving[name], weight), not self.moving[name].any())
            for name, weight in weights.items()
            if not self.moving[name].all()
        ]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a sharded tensor; any other tensor is returned unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _own_rows(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    rows = rows.to(weight.device).view(-1, *[1] * (weight.ndim - 1))
    if isinstance(weight, DTensor):
        return distribute_tensor(rows, weight.device_mesh, weight.placements).to_local()
    return rows


class Mask(Protocol):
    """Select the rows that may change: once before the first step, and with `every` again every `every` steps."""

    @property
    def every(self) -> int | None: ...

    def find(
        self, model: Any, batches: Sequence[MicroBatch], *, originals: Sequence[TokenRow] = (), start: bool
    ) -> Mapping[str, torch.Tensor]:
        """Select the rows of every trained tensor that may change, by tensor name: (rows,) bool.

        `batches` is the plan of the training, `originals` the answers to be forgotten. `start` is True while the model
        is the start model. Weights, gradients and random numbers do not change.
        """
        ...


MASKS: Registry[type[Any]] = Registry("mask", "relearn.unlearning.masks")


def check_mask(settings: config.MaskConfig) -> Mask:
    """Build the mask of a recipe. Raises InputError for an unknown name or option, or a value that is not allowed."""
    kind = MASKS.get(settings.name)
    options = [field.name for field in fields(kind)]
    for key in settings.options:
        if key not in options:
            raise InputError(
                f"{settings.name} has no option {key!r}", where="unlearn.mask.options", way_out=suggest(key, options)
            )
    try:
        return kind(**settings.options)
    except (ValueError, TypeError) as error:
        raise InputError(str(error), where="unlearn.mask.options") from None


def make_mask(
    settings: config.MaskConfig, model: Any, batches: Sequence[MicroBatch], originals: Sequence[TokenRow] = ()
) -> RowMask:
    """Make the `RowMask` callback of a recipe's mask for the start model and the plan of its training.

    `originals` are the answers to be forgotten; without them the mask is found from the rows that are trained on.
    """
    mask = check_mask(settings)

    def find(model: Any, start: bool) -> Mapping[str, torch.Tensor]:
        return mask.find(model, batches, originals=originals, start=start)

    return RowMask(find(model, True), lambda trained: find(trained, False), mask.every)
