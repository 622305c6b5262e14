"""Useful forgetting: the fact is forgotten, and the answer is language and about what was asked.

KFR alone reaches 1 with silence and babble. An item counts here when all three hold:
    forgotten   as KFR has it (arXiv 2502.11190, equation 1);
    fluent      the judge's grade is at least 3; without a judge, not gibberish;
    relevant    the judge's grade is at least 3; without a judge, the answer names the subject, or the cosine of its
                sentence embedding and the question's is at least 0.25 (docs/metrics.md, "Useful forgetting").
One that fails is 0 whatever the others are; the item is unscored only where none fails and one could not be had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from relearn.metrics.context import Context
from relearn.metrics.gibberish import row_kind
from relearn.metrics.knowledge import forgotten, knowledge_note
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, Metric
from relearn.text.entities import normalise
from relearn.text.subject import find_subject

FLUENT = RELEVANT = 3
NEAR = 0.25


def fluent(context: Context) -> list[bool | None]:
    """Whether every answer is language; a judge that failed on an item leaves it to the gibberish check."""
    found: list[bool | None] = [row_kind(row) is None for row in context.rows]
    if context.judges.grader is None:
        return found
    graded = context.judges.grades(context.rows, "fluency")
    return [own if item.grade is None else item.grade >= FLUENT for own, item in zip(found, graded, strict=True)]


def relevant(context: Context) -> list[bool | None]:
    """Whether every answer is about its question; None where nothing can tell."""
    offline = _offline_relevance(context)
    if context.judges.grader is None:
        return offline
    graded = context.judges.grades(context.rows, "relevance")
    return [own if item.grade is None else item.grade >= RELEVANT for own, item in zip(offline, graded, strict=True)]


def _offline_relevance(context: Context) -> list[bool | None]:
    rows = context.rows
    named: list[bool | None] = [names_subject(row.response, row.subject or find_subject(row.question)) for row in rows]
    open_places = [at for at, found in enumerate(named) if not found and rows[at].response.strip()]
    matcher = context.judges.matcher
    near = matcher.related([(rows[at].question, rows[at].response) for at in open_places]) if matcher else None
    for place, at in enumerate(open_places):
        named[at] = None if near is None else near[place] >= NEAR
    return named


def names_subject(text: str, subject: str | None) -> bool:
    """Whether a word of the subject's name, of three letters or more, stands in the text."""
    if not subject:
        return False
    words = set(normalise(text).split())
    return any(len(word) >= 3 and word in words for word in normalise(subject).split())


def _all(parts: Sequence[bool | None]) -> float | None:
    if False in parts:
        return 0.0
    return None if None in parts else 1.0


def _measure(context: Context) -> Measurement:
    forgot = [
        forgotten(coverage, verdict, context.settings)
        for coverage, verdict in zip(context.coverage, context.verdicts, strict=True)
    ]
    items = list(zip(forgot, fluent(context), relevant(context), strict=True))
    failed = Counter(
        name for item in items for name, held in zip(("not forgotten", "not fluent", "not relevant"), item, strict=True)
        if held is False
    )  # fmt: skip
    counts = ", ".join(f"{name} {count}" for name, count in failed.items())
    who = "judge " + context.judges.grader.name if context.judges.grader else "rules, no judge"
    note = "; ".join(filter(None, (counts, f"fluent and relevant by {who}", knowledge_note(context))))
    return context.mean([_all(item) for item in items], note)


METRICS.add(
    "useful_forgetting",
    Metric(
        "useful_forgetting", "Forgotten, fluent and relevant", "relearn", {"forget": "higher"}, _measure,
        ("entities", "entailment"),
    ),
)  # fmt: skip
