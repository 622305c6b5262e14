"""What an adapter does to the weights, layer by layer, read from its file: size, spectrum, and overlap with another's.

The update of a LoRA layer is scale x B A, of shape (out, in) and of rank r at most. Its singular values come from the
small factors alone: with B = Q_B R_B and A' = Q_A R_A they are those of scale x R_B R_A', r x r.
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

from relearn.models.load import check_adapter

_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Update:
    """One module's update. `basis_out` (out, r), `basis_in` (in, r): orthonormal, by falling singular value."""

    module: str
    layer: int | None
    singular: torch.Tensor
    basis_out: torch.Tensor
    basis_in: torch.Tensor

    @property
    def norm(self) -> float:
        """Frobenius norm."""
        return float(self.singular.square().sum().sqrt())

    @property
    def effective_rank(self) -> float:
        """exp(entropy of the squared singular values as shares); 0 for no update."""
        shares = self.singular.square()
        if not shares.sum() > 0:
            return 0.0
        shares = shares / shares.sum()
        return float(torch.special.entr(shares).sum().exp())


def updates(folder: Path) -> list[Update]:
    """Every LoRA layer of a PEFT adapter in safetensors form, in the file's order."""
    check_adapter(folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in load_file(folder / "adapter_model.safetensors").items():
        if match := _PAIR.match(name):
            factors.setdefault(match["module"], {})[match["side"]] = weight.float()
    return [
        update(module, pair["B"], pair["A"], _scale(config, pair["A"].shape[0]))
        for module, pair in factors.items()
        if set(pair) == {"A", "B"}
    ]


def update(module: str, b: torch.Tensor, a: torch.Tensor, scale: float) -> Update:
    """The update scale x b a of b (out, r) and a (r, in)."""
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, singular, v = torch.linalg.svd(scale * r_b @ r_a.T)
    layer = _LAYER.search(f".{module}.")
    return Update(module, int(layer[1]) if layer else None, singular, q_b @ u, q_a @ v.T)


def overlap(one: Update, other: Update, count: int | None = None) -> float:
    """How much of the space that one update writes into, the other writes into as well, between 0 and 1.

    The mean squared cosine of the principal angles between the spans of their first `count` output directions (all with
    a singular value above rounding when None). Nan where one of them changes nothing.
    """
    first, second = _span(one, count), _span(other, count)
    if not first.shape[1] or not second.shape[1]:
        return math.nan
    cosines = torch.linalg.svdvals(first.T @ second)
    return float(cosines.square().sum() / min(first.shape[1], second.shape[1]))


def _span(one: Update, count: int | None) -> torch.Tensor:
    above = one.singular > 1e-6 * max(float(one.singular.max()), 1e-30)
    kept = one.basis_out[:, above]
    return kept[:, :count] if count else kept


def _scale(config: Mapping[str, object], rank: int) -> float:
    alpha = float(config["lora_alpha"])  # pyright: ignore[reportArgumentType]
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
