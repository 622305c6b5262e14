"""Compute norm and spectrum of a LoRA adapter's weight updates per module, and the overlap of two adapters.

The update of a module is scale x B A, of shape (out, in) and rank r at most. With the QR decompositions B = Q_B R_B and
A' = Q_A R_A, its singular values are those of the r x r matrix scale x R_B R_A'.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from relearn.models.lora import check_adapter

_LORA_WEIGHT = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class LoraUpdate:
    """Hold the singular value decomposition of one module's update; `layer` is None outside the decoder's layers.

    `singular` (r,): singular values, descending. `basis_out` (out, r), `basis_in` (in, r): singular vectors in the same
    order, orthonormal columns.
    """

    module: str
    layer: int | None
    singular: torch.Tensor
    basis_out: torch.Tensor
    basis_in: torch.Tensor

    @property
    def norm(self) -> float:
        """Return the Frobenius norm."""
        return float(self.singular.square().sum().sqrt())

    @property
    def effective_rank(self) -> float:
        """Return exp(entropy of the squared singular values as shares); 0 for an update of zeros."""
        shares = self.singular.square()
        if not shares.sum() > 0:
            return 0.0
        shares = shares / shares.sum()
        return float(torch.special.entr(shares).sum().exp())

    @property
    def output_span(self) -> torch.Tensor:
        """Return the output directions (out, n) whose singular value exceeds rounding error."""
        nonzero = self.singular > 1e-6 * max(float(self.singular.max()), 1e-30)
        return self.basis_out[:, nonzero]


def read_updates(folder: Path) -> list[LoraUpdate]:
    """Read the updates of all modules of a PEFT adapter in safetensors format, in the order of the file.

    Each expert of a mixture counts as a module.
    """
    check_adapter(folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in load_file(folder / "adapter_model.safetensors").items():
        if match := _LORA_WEIGHT.match(name):
            factors.setdefault(match["module"], {})[match["side"]] = weight.float()
    updates = []
    for module, pair in factors.items():
        if set(pair) == {"A", "B"}:
            # Only experts have more rows in A than the rank: one part for each expert.
            experts = max(1, pair["A"].shape[0] // int(config["r"])) if config.get("target_parameters") else 1
            scale = _scale(config, pair["A"].shape[0] // experts)
            for number in range(experts):
                name = module if experts == 1 else f"{module}[{number}]"
                a, b = pair["A"].unflatten(0, (experts, -1))[number], pair["B"].unflatten(1, (-1, experts))[..., number]
                updates.append(decompose(name, b, a, scale))
    return updates


def decompose(module: str, b: torch.Tensor, a: torch.Tensor, scale: float) -> LoraUpdate:
    """Compute the singular value decomposition of scale x b a, with b (out, r) and a (r, in)."""
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, singular, v = torch.linalg.svd(scale * r_b @ r_a.T)
    layer = _LAYER.search(f".{module}.")
    return LoraUpdate(module, int(layer[1]) if layer else None, singular, q_b @ u, q_a @ v.T)


def overlap(one: LoraUpdate, other: LoraUpdate) -> float:
    """Compute the overlap of the output spaces of two updates, between 0 and 1; nan if one of them is zero.

    The overlap is the mean squared cosine of the principal angles between the spans of their output directions.
    """
    first, second = one.output_span, other.output_span
    if not first.shape[1] or not second.shape[1]:
        return math.nan
    cosines = torch.linalg.svdvals(first.T @ second)
    return float(cosines.square().sum() / min(first.shape[1], second.shape[1]))


def _scale(config: Mapping[str, object], rank: int) -> float:
    alpha = float(config["lora_alpha"])  # pyright: ignore[reportArgumentType]
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
