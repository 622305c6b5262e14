"""Select weights with MemFlex: tensors with a large forget gradient in another direction than the retain gradient.

    region = { theta_i : cos(g_f, g_r) < mu  and  mean|g_f| > sigma }

(Tian et al., EMNLP 2024 Findings, arXiv 2407.01920.) g_f and g_r are the gradients of the NLL of the original answers
(as in sure.py) and of retain rows with respect to a whole LoRA tensor theta_i. Paper: mu (`similarity`) 0.92, sigma
(`magnitude`) 6e-4, selected once before training, with 0.4 GA + 2.0 GD. sigma depends on the scale of the model and its
loss. Without `magnitude`, the tensors at or above the `percentile` of mean|g_f| among their kind (A, B) are selected.

The paper continues to train the adapter that was fine-tuned on the forget set; here a fresh one is added, which needs
the warm-up of sure.py. `batches`, `warmup_steps` and `every` are those of SURE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from relearn.core.errors import InputError, RunFailedError
from relearn.engine.forward import TokenRow
from relearn.unlearning.data.batches import MicroBatch
from relearn.unlearning.masks.mask import MASKS
from relearn.unlearning.masks.sure import (
    at_percentile,
    check_counts,
    check_percentile,
    forget_groups,
    gradient,
    kinds,
    retain_groups,
    warmed_up,
)
from relearn.unlearning.options import not_negative


@MASKS.register("memflex")
@dataclass(frozen=True)
class MemFlex:
    similarity: float = 0.92
    percentile: float = 50.0
    magnitude: float | None = None
    warmup_steps: int = 2
    batches: int = 16
    every: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.similarity, int | float) or not -1 < self.similarity <= 1:
            raise ValueError(f"similarity is {self.similarity!r}: give a cosine above -1, up to 1")
        check_percentile(self.percentile)
        if self.magnitude is not None:
            not_negative(magnitude=self.magnitude)
        check_counts(self.warmup_steps, self.batches, self.every)

    def find(
        self, model: Any, batches: Sequence[MicroBatch], *, originals: Sequence[TokenRow] = (), start: bool
    ) -> Mapping[str, torch.Tensor]:
        if not any(batch.retain for batch in batches):
            raise InputError(
                "memflex compares forget with retain rows, and there are no retain rows",
                where="data.retain",
                way_out="give a retain set, or take mask sure",
            )
        groups = forget_groups(batches, self.batches, originals)
        with warmed_up(model, groups, self.warmup_steps if start else 0):
            forget = gradient(model, groups)
            retain = gradient(model, retain_groups(batches, self.batches))
        region = self.region(forget, retain, kinds(model))
        if not region:
            raise RunFailedError(
                f"no tensor has a large forget gradient and cos < {self.similarity} to its retain gradient",
                way_out="raise similarity, or lower magnitude or percentile, in unlearn.mask.options",
            )
        return {name: torch.full((len(values),), name in region) for name, values in forget.items()}

    def region(
        self, forget: Mapping[str, torch.Tensor], retain: Mapping[str, torch.Tensor], kinds: Sequence[Sequence[str]]
    ) -> set[str]:
        """Select the names of the tensors that may change, from the forget and retain gradients by name."""
        sizes = {name: values.abs().mean() for name, values in forget.items()}
        large = {name for name, size in sizes.items() if size > (self.magnitude or 0.0)}
        if self.magnitude is None:
            limits = [(names, at_percentile(sizes, names, self.percentile)) for names in kinds]
            large &= {name for names, limit in limits for name in names if sizes[name].double() >= limit}
        return {name for name in large if _cosine(forget[name], retain[name]) < self.similarity}


def _cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Compute the cosine similarity of two flattened tensors; 0 if one of them is zero."""
    return torch.nn.functional.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0, eps=1e-30)
