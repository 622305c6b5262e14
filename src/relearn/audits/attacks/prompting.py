"""The plain question: what everything else is held against."""

from __future__ import annotations

from collections.abc import Sequence

from relearn.audits.attack import AUDITS, Ask, Audit
from relearn.audits.material import Material

PLAIN = "plain"


def _asks(material: Material) -> Sequence[Ask]:
    return [Ask(record.id, record.question, "asked", form=record.form) for record in material.facts]


AUDITS.add(
    PLAIN,
    Audit(PLAIN, "The question itself", "questions", "relearn", "the forget set's own questions, greedily", asks=_asks),
)
