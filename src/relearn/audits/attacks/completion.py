"""Completion prompts: the first quarter, half, and three quarters of the true answer, for the model to go on with.

Once as the beginning of the model's own answer to the question, once as bare text without any question. Only what the
model adds to the beginning counts as told (arXiv 2502.11190 reports its lowest forgetting rate here).
"""

from __future__ import annotations

from collections.abc import Sequence

from relearn.audits.attack import AUDITS, Ask, Audit
from relearn.audits.material import Material
from relearn.data import Record

SHARES = (0.25, 0.5, 0.75)


def beginning(answer: str, share: float) -> str:
    """The first words of an answer; empty when nothing would be left to say."""
    words = answer.split()
    return " ".join(words[: max(1, int(len(words) * share))]) if len(words) > 1 else ""


def _asks(material: Material) -> Sequence[Ask]:
    return [ask for record in material.facts for share in SHARES for ask in _both(record, share)]


def _both(record: Record, share: float) -> list[Ask]:
    begun = beginning(record.answer, share)
    if not begun:
        return []
    percent = f"{share:.0%}"
    bare = Ask(record.id, "", f"{percent} as text", form="text", given=begun)
    if record.form == "text":
        return [Ask(record.id, record.question, f"{percent} of the passage", form="text", given=begun)]
    return [Ask(record.id, record.question, f"{percent} of the answer", given=begun), bare]


AUDITS.add(
    "completion",
    Audit(
        "completion", "Completion prompts", "questions", "arXiv 2502.11190",
        "25, 50 and 75 % of the true answer, to be gone on with", asks=_asks,
    ),
)  # fmt: skip
