"""The adapter taken off and halved: what remains of the forgetting.

A LoRA adapter that can be removed is not deletion. The answers without it are the start model's own; this audit says
so with numbers, and `relearn export` is the way out. It decides no verdict, since whoever holds the merged weights has
no adapter to remove.
"""

from __future__ import annotations

from collections.abc import Callable

from relearn.audits.attack import AUDITS, AskAgain, Audit
from relearn.audits.material import Material

SHARES = {"adapter off": 0.0, "adapter halved": 0.5}


def _changes(fresh: Callable[..., object], _material: Material, ask: AskAgain) -> None:
    for name, share in SHARES.items():
        ask(name, fresh(share=share))


AUDITS.add(
    "adapters",
    Audit(
        "adapters", "Adapter off and halved", "adapters", "relearn",
        "the adapter removed, and at half its strength", counts=False, changes=_changes,
    ),
)  # fmt: skip
