"""Masks: which weights may move in a training.

A mask is a frozen dataclass whose fields are its options; `find` says which rows of every trained tensor may move, and
`RowMask` sees to it that the others do not, by one bit. A new mask is one new file in this package.

Keeps rows of weights where they are through every optimiser step.

The accumulated, clipped gradient of a kept row is set to zero before the step, and the row itself is put back after
it: whatever an optimiser does with momentum or weight decay, the row does not move by one bit. A tensor without a
moving row loses its gradient, so the optimiser leaves it alone. While the optimiser steps, the tensors with some kept
rows exist twice.
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
from relearn.unlearning.data.batches import MicroBatch

FILE = "mask.safetensors"


@dataclass(frozen=True)
class _Kept:
    """A trained tensor with, per row, whether it is kept where it is: (rows, 1, ...) bool."""

    weight: torch.nn.Parameter
    rows: torch.Tensor
    all: bool


class RowMask(TrainerCallback):
    """`moving` names the rows of every trained tensor that move: (rows,) bool. With `every` it is found again.

    Checkpoints hold the mask, so that a resumed training goes on with the very same one.
    """

    def __init__(
        self,
        moving: Mapping[str, torch.Tensor],
        again: Callable[[Any], Mapping[str, torch.Tensor]] | None = None,
        every: int | None = None,
    ):
        self.moving = {name: rows.cpu() for name, rows in moving.items()}
        self._again = again
        self._every = every
        self._kept: list[_Kept] = []
        self._before: list[tuple[_Kept, torch.Tensor]] = []

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
        self._place(model)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._before = []
        for kept in self._kept:
            if kept.all or kept.weight.grad is None:
                kept.weight.grad = None
                continue
            _local(kept.weight.grad).masked_fill_(kept.rows, 0)
            self._before.append((kept, _local(kept.weight.detach()).clone()))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for kept, before in self._before:
            weight = _local(kept.weight.detach())
            torch.where(kept.rows, before, weight, out=weight)
        self._before = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        due = self._every and state.global_step % self._every == 0 and state.global_step < state.max_steps
        if due and self._again:
            self.moving = {name: rows.cpu() for name, rows in self._again(model).items()}
            self._place(model)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            save_file(self.moving, Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE)

    def _place(self, model: Any) -> None:
        """Tie the mask to the weights of `model`, the same in all processes; sharded weights get their own rows."""
        weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if self._every and any(isinstance(weight, DTensor) for weight in weights.values()):
            raise InputError(
                "weights are sharded, and a mask cannot be found again from shards",
                where="unlearn.mask.options.every",
                way_out="leave `every` out",
            )
        own = {name: self.moving[name] for name in weights}
        # Rounding may differ between processes: the main one's mask is everyone's.
        self.moving = distributed.gather(own if distributed.is_main() else {})[0]
        self._kept = [
            _Kept(weight, _own_rows(~self.moving[name], weight), not self.moving[name].any())
            for name, weight in weights.items()
            if not self.moving[name].all()
        ]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a sharded tensor that this process holds; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _own_rows(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    rows = rows.to(weight.device).view(-1, *[1] * (weight.ndim - 1))
    if isinstance(weight, DTensor):
        return distribute_tensor(rows, weight.device_mesh, weight.placements).to_local()
    return rows


class Mask(Protocol):
    """`every`: the mask is found again every so many steps; None: once, before the first step."""

    @property
    def every(self) -> int | None: ...

    def find(self, model: Any, batches: Sequence[MicroBatch], *, start: bool) -> Mapping[str, torch.Tensor]:
        """For every trained tensor by name which of its rows may move: (rows,) bool.

        `batches` is the plan of the training, `start` whether the model is still the start model. Leaves weights,
        gradients and random numbers as they are.
        """
        ...


MASKS: Registry[type[Any]] = Registry("mask", "relearn.unlearning.masks")


def check_mask(settings: config.MaskConfig) -> Mask:
    """The mask a recipe names, with its options. Raises InputError for unknown names and impossible options."""
    kind = MASKS.get(settings.name)
    known = [field.name for field in fields(kind)]
    for key in settings.options:
        if key not in known:
            raise InputError(
                f"{settings.name} has no option {key!r}", where="unlearn.mask.options", way_out=suggest(key, known)
            )
    try:
        return kind(**settings.options)
    except (ValueError, TypeError) as error:
        raise InputError(str(error), where="unlearn.mask.options") from None


def make_mask(settings: config.MaskConfig, model: Any, batches: Sequence[MicroBatch]) -> RowMask:
    """The mask as a callback, for the start model and the plan of its training."""
    mask = check_mask(settings)
    return RowMask(
        mask.find(model, batches, start=True), lambda trained: mask.find(trained, batches, start=False), mask.every
    )
