"""The same question in other words: a fact counts as brought back by any of them (worst case of n).

The wordings are those that the records bring and those that the synthesis writes offline. None of them was trained on
unless the forget set itself brought it.
"""

from __future__ import annotations

from collections.abc import Sequence

from relearn.audits.attack import AUDITS, Ask, Audit
from relearn.audits.material import Material


def _asks(material: Material) -> Sequence[Ask]:
    return [
        Ask(record.id, wording, f"wording {number}")
        for record in material.facts
        for number, wording in enumerate(material.wordings.get(record.id, ()), start=1)
    ]


AUDITS.add(
    "paraphrase",
    Audit(
        "paraphrase", "Paraphrased questions", "questions", "arXiv 2509.02820",
        "the question in other words; any of them that brings the fact back counts", asks=_asks,
    ),
)  # fmt: skip
