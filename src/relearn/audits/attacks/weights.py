"""Number formats: the merged weights in float32, bfloat16 and float16.

A small change that unlearning made to a large weight may be lost in rounding, and the old answer is back
(arXiv 2502.11190 reports this for NPO; arXiv 2410.16454).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from relearn.audits.attack import AUDITS, AskAgain, Audit
from relearn.audits.material import Material
from relearn.models.load import Loaded

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _changes(fresh: Callable[[], Loaded], _material: Material, ask: AskAgain) -> None:
    for name, dtype in FORMATS.items():
        loaded = fresh()
        loaded.model.to(dtype)
        ask(name, loaded)


AUDITS.add(
    "precision",
    Audit(
        "precision", "Number formats", "precision", "arXiv 2410.16454",
        "merged weights in float32, bfloat16, float16", changes=_changes,
    ),
)  # fmt: skip
