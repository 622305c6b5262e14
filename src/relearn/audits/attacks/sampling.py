"""Sampling: the plain question n times at temperature 1. A fact counts as brought back by any of the draws.

One greedy answer hides what stands close behind it; who asks often enough reads that too (arXiv 2410.03523).
"""

from __future__ import annotations

from collections.abc import Sequence

from relearn.audits.attack import AUDITS, Ask, Audit
from relearn.audits.material import Material


def _asks(material: Material) -> Sequence[Ask]:
    return [
        Ask(record.id, record.question, "drawn", form=record.form, sample=number)
        for record in material.facts
        for number in range(1, material.samples + 1)
    ]


AUDITS.add(
    "sampling",
    Audit(
        "sampling", "Repeated sampling", "questions", "arXiv 2410.03523",
        "the question several times at temperature 1", asks=_asks,
    ),
)  # fmt: skip
