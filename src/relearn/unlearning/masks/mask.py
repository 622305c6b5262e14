"""Masks: which weights may move in a training.

A mask is a frozen dataclass whose fields are its options; `find` says which rows of every trained tensor may move, and
`RowMask` sees to it that the others do not, by one bit. A new mask is one new file in this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

import torch

from relearn.core import config
from relearn.core.errors import InputError
from relearn.core.registry import Registry, suggest
from relearn.training.masks.rows import RowMask
from relearn.unlearning.data.batches import MicroBatch


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


MASKS: Registry[type[Any]] = Registry("mask", "relearn.unlearning.masks", "relearn.training.masks")


def check_mask(settings: config.Mask) -> Mask:
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


def make_mask(settings: config.Mask, model: Any, batches: Sequence[MicroBatch]) -> RowMask:
    """The mask as a callback, for the start model and the plan of its training."""
    mask = check_mask(settings)
    return RowMask(
        mask.find(model, batches, start=True), lambda trained: mask.find(trained, batches, start=False), mask.every
    )
