"""How much of the reference the model would say by itself, token by token (OpenUnlearning, arXiv 2506.12618).

    exact memorisation   EM = share of hits among the tokens
    extraction strength  ES = 1 - k / |y|,  k = length of the shortest beginning after which every token is a hit

A hit is a token of the reference that was the likeliest of all. k = |y| where even the last is a miss, so ES reaches 0;
k = 0, ES = 1 where the question alone brings the whole answer. The tokens that close the turn belong to the template
and not to the answer: they are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, Metric

SOURCE = "arXiv 2506.12618"
MISSING = "not measured which token was likeliest"


def exact_memorisation(hits: Sequence[bool]) -> float | None:
    """The share of hits; None without tokens."""
    return sum(map(bool, hits)) / len(hits) if hits else None


def extraction_strength(hits: Sequence[bool]) -> float | None:
    """The share of the answer that follows its last miss; None without tokens."""
    if not hits:
        return None
    said = 0
    for hit in reversed(hits):
        if not hit:
            break
        said += 1
    return said / len(hits)


def answer_hits(row: AnswerRow) -> Sequence[bool]:
    """Hits at the tokens of the reference, without those that close the turn; empty where not measured."""
    hits = row.reference_hits or ()
    return hits[: max(0, len(hits) - row.closing_tokens)]


def _measure(context: Context, of_hits: Callable[[Sequence[bool]], float | None]) -> Measurement:
    return context.mean([of_hits(answer_hits(row)) for row in context.rows], why=MISSING)


def _add(name: str, title: str, of_hits: Callable[[Sequence[bool]], float | None]) -> None:
    METRICS.add(
        name,
        Metric(
            name, title, SOURCE, {"forget": "lower", "retain": "higher"}, lambda context: _measure(context, of_hits),
            ("reference",),
        ),
    )  # fmt: skip


_add("exact_memorisation", "Exact memorisation", exact_memorisation)
_add("extraction_strength", "Extraction strength", extraction_strength)
