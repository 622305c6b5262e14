"""Quantised weights: every linear layer but the output layer rounded to 8 and to 4 bits, group by group.

Round to nearest between the smallest and the largest weight of a group of 32 along the input, as the usual formats do
it. The rounded weights are kept as ordinary numbers, so the attack needs no kernels and runs on any machine; what comes
out is what a model with such weights says (arXiv 2410.16454: unlearning by small changes is undone by 4 bits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from relearn.audits.attack import AUDITS, AskAgain, Audit
from relearn.audits.material import Material
from relearn.models.load import Loaded

BITS = (8, 4)
GROUP = 32


def rounded(weight: torch.Tensor, bits: int, group: int = GROUP) -> torch.Tensor:
    """The weight (out, in) as `bits`-bit numbers would hold it, with one scale and one offset per `group` inputs.

    A last group that is not full is rounded on its own.
    """
    pieces = [_rounded(piece.float(), bits) for piece in weight.split(group, dim=1)]
    return torch.cat(pieces, dim=1).to(weight.dtype)


def _rounded(piece: torch.Tensor, bits: int) -> torch.Tensor:
    low = piece.amin(dim=1, keepdim=True)
    step = (piece.amax(dim=1, keepdim=True) - low) / (2**bits - 1)
    steps = torch.where(step > 0, (piece - low) / step.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
    return low + steps.round() * step


@torch.no_grad()
def quantise(model: Any, bits: int) -> None:
    """Round every linear layer in place, the output layer left out."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear) and layer is not head:
            layer.weight.copy_(rounded(layer.weight, bits))


def _changes(fresh: Callable[[], Loaded], _material: Material, ask: AskAgain) -> None:
    for bits in BITS:
        loaded = fresh()
        quantise(loaded.model, bits)
        ask(f"{bits} bit", loaded)


AUDITS.add(
    "quantise",
    Audit(
        "quantise", "Quantised weights", "precision", "arXiv 2410.16454",
        "merged weights rounded to 8 and 4 bits in groups of 32", changes=_changes,
    ),
)  # fmt: skip
