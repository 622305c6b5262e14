"""Worst case: a fact counts as forgotten only if no wording of its question brings it back (arXiv 2509.02820).

The wordings are those of the part forget_wordings, written because `metrics.worst_case` asks for them, or read from a
file of answers. One answer gives a fact away as KFR has it (`knowledge.forgotten`), the question's own answer included.
A fact of which an answer could not be judged, and none gives it away, is unscored.
"""

from __future__ import annotations

from relearn.metrics.context import Context
from relearn.metrics.joint_context import Parts
from relearn.metrics.knowledge import forgotten, knowledge_note
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, JointMetric
from relearn.synthesis.wordings import worded_record

PART = "forget_wordings"


def _decided(context: Context) -> dict[str, bool | None]:
    return {
        row.id: forgotten(coverage, verdict, context.settings)
        for row, coverage, verdict in zip(context.rows, context.coverage, context.verdicts, strict=True)
    }


def _measure(parts: Parts) -> Measurement | None:
    """None where no other wordings were asked, nor asked for."""
    context = parts.contexts.get("forget")
    if context is None or not (parts.rows(PART) or parts.settings.worst_case):
        return None
    if not parts.rows(PART):
        return context.mean([None] * len(context.rows), why="no question was asked in other words")
    answers: dict[str, list[bool | None]] = {key: [gone] for key, gone in _decided(context).items()}
    for key, gone in _decided(parts.contexts[PART]).items():
        if worded_record(key) in answers:
            answers[worded_record(key)].append(gone)
    count = sum(map(len, answers.values())) / max(1, len(answers))
    note = f"{count:.3g} wordings a fact; {knowledge_note(context)}"
    return context.mean([_worst(answers[row.id]) for row in context.rows], note, "an answer could not be judged")


def _worst(gone: list[bool | None]) -> float | None:
    if any(answer is False for answer in gone):
        return 0.0
    return None if any(answer is None for answer in gone) else 1.0


METRICS.add(
    "worst_case",
    JointMetric(
        "worst_case", "Forgotten under every wording", "arXiv 2509.02820", "forget", {"forget": "higher"}, _measure,
        needs=("entities", "entailment"),
    ),
)  # fmt: skip
