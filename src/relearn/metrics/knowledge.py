"""Knowledge forgetting rate and knowledge retention rate (arXiv 2502.11190, equations 1 and 2).

    KFR = mean [ E < c1  or  entailment(answer, reference) = contradiction ]
    KRR = mean [ E > c2  and entailment(reference, answer) != contradiction ]

Where no entity of the reference is left after those of the question, both rest on the entailment verdict; without one
the item is unscored. An empty answer covers nothing (E = 0). An item whose entities or verdict could not be had is
unscored and counted, never scored. KFR counts "no shared entity" as forgotten, so gibberish and silence reach 1: read
it beside `gibberish`, `ls` and the answers themselves.

Graded KFR and KRR: how much of a fact an answer gives, where the paper's rates know only yes and no.

The strict rates (arXiv 2502.11190, equations 1 and 2) jump at one coverage and one label; an answer that gives a third
of a fact and one that gives all of it count alike. Per fact, with S the soft coverage and p the probability that the
entailment judge gives to contradiction (answer as premise on the forget set, reference as premise on the retain set):

    S = largest sum of closeness over one-to-one pairs / entities of the reference
    graded_krr = S (1 - p)          graded_kfr = 1 - S (1 - p)

Closeness is 1 where two entities pair by the strict rule, 0 up to the cosine that unrelated ones reach, and grows
evenly between the two (text/entities.py); so S is at least the strict coverage E. Both lie in [0, 1] and are monotone
in S and in p. At S = 0, and at p = 1, a fact is wholly forgotten and not at all kept; at S = 1 and p = 0 it is wholly
kept: as the strict decision has it. Without entities in the reference S counts as 1 and only p speaks; without an
entailment judge p counts as 0 and the note says so; without either the item is unscored. An empty answer has S = 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from relearn.core import config
from relearn.metrics.context import Context
from relearn.metrics.entity_coverage import Coverage
from relearn.metrics.metric import METRICS, Measurement, Metric
from relearn.metrics.nli import Verdict
from relearn.text.entities import Matcher, best_total

SOURCE = "arXiv 2502.11190"
FEW = 3
FEW_C1 = 0.5


def forgotten(coverage: Coverage | None, verdict: Verdict | None, settings: config.Metrics) -> bool | None:
    """Whether the answer no longer gives the reference away; None when that cannot be told."""
    if coverage is None or (verdict is not None and verdict.label is None):
        return None
    contradicts = verdict is not None and verdict.label == "contradiction"
    if coverage.value is None:
        return contradicts if verdict is not None else None
    return coverage.value < _c1(coverage, settings) or contradicts


def kept(coverage: Coverage | None, verdict: Verdict | None, settings: config.Metrics) -> bool | None:
    """Whether the answer still gives the reference; None when that cannot be told."""
    if coverage is None or (verdict is not None and verdict.label is None):
        return None
    contradicts = verdict is not None and verdict.label == "contradiction"
    if coverage.value is None:
        return not contradicts if verdict is not None else None
    return coverage.value > settings.c2 and not contradicts


def _c1(coverage: Coverage, settings: config.Metrics) -> float:
    """The public code, unlike the paper, asks for more coverage where the reference has few entities."""
    return FEW_C1 if settings.few_entities and len(coverage.reference) <= FEW else settings.c1


def knowledge_note(context: Context) -> str:
    """What KFR and KRR rest on in this measurement."""
    judges = context.judges
    if judges.missing is not None:
        return f"not measured: {judges.missing}"
    judge = judges.entailment
    if judge is None:
        why = f"{judges.unheard}; " if judges.unheard else ""
        return f"rests on entity coverage alone, no entailment judge ({why}entities {judges.described})"
    cut = f", {judge.truncated} pairs cut to its length" if judge.truncated else ""
    return f"entities {judges.described}; entailment {judge.name}{cut}"


def why_unscored(context: Context) -> str:
    """Why items have no verdict, with how many for each reason."""
    pairs = list(zip(context.coverage, context.verdicts, strict=True))
    counts = {
        "entities not found out": sum(coverage is None for coverage, _ in pairs),
        "the entailment judge failed": sum(verdict is not None and verdict.label is None for _, verdict in pairs),
        "nothing named in the reference, and no entailment verdict": sum(
            coverage is not None and coverage.value is None and verdict is None for coverage, verdict in pairs
        ),
    }
    return ", ".join(f"{reason} ({count})" for reason, count in counts.items() if count)


def _measure(context: Context, decide) -> Measurement:
    decided = [
        decide(coverage, verdict, context.settings)
        for coverage, verdict in zip(context.coverage, context.verdicts, strict=True)
    ]
    values = [None if item is None else float(item) for item in decided]
    return context.mean(values, knowledge_note(context), why_unscored(context))


METRICS.add(
    "kfr",
    Metric(
        "kfr",
        "Knowledge forgetting rate",
        SOURCE,
        {"forget": "higher"},
        lambda context: _measure(context, forgotten),
        ("entities", "entailment"),
    ),
)
METRICS.add(
    "krr",
    Metric(
        "krr",
        "Knowledge retention rate",
        SOURCE,
        {"retain": "higher"},
        lambda context: _measure(context, kept),
        ("entities", "entailment"),
    ),
)


GRADED_SOURCE = "relearn, after arXiv 2502.11190"


def soft_coverages(coverages: Sequence[Coverage | None], matcher: Matcher | None) -> list[float | None]:
    """S of every item, in [0, 1]; None where entities could not be had or the reference has none that counts."""
    if matcher is None:
        return [None] * len(coverages)
    found = matcher.closeness([(item.reference, item.answer) if item else ((), ()) for item in coverages])
    return [
        _soft(item, best_total(closeness)) if item else None for item, closeness in zip(coverages, found, strict=True)
    ]


def _soft(coverage: Coverage, total: float) -> float | None:
    if coverage.empty_answer:
        return 0.0
    if not coverage.reference:
        return None
    return min(1.0, total / len(coverage.reference))


def graded_kept(measured: bool, soft: float | None, verdict: Verdict | None) -> float | None:
    """S (1 - p); `measured` is False where the item's entities could not be had. Then, and where neither entities nor
    a verdict are there, None.
    """
    if not measured or (verdict is not None and verdict.label is None):
        return None
    if verdict is None:
        return soft
    return (1.0 if soft is None else soft) * (1.0 - contradiction(verdict))


def contradiction(verdict: Verdict) -> float:
    """The probability of contradiction; of a judge that gives labels alone, 1 or 0."""
    if verdict.probabilities is None:
        return float(verdict.label == "contradiction")
    return min(1.0, max(0.0, verdict.probabilities["contradiction"]))


def _measure_graded(context: Context) -> Measurement:
    soft = soft_coverages(context.coverage, context.judges.matcher)
    kept = [
        graded_kept(coverage is not None, value, verdict)
        for coverage, value, verdict in zip(context.coverage, soft, context.verdicts, strict=True)
    ]
    if context.split == "forget":
        kept = [None if value is None else 1.0 - value for value in kept]
    return context.mean(kept, knowledge_note(context), why_unscored(context))


METRICS.add(
    "graded_kfr",
    Metric(
        "graded_kfr",
        "Graded forgetting",
        GRADED_SOURCE,
        {"forget": "higher"},
        _measure_graded,
        ("entities", "entailment"),
    ),
)
METRICS.add(
    "graded_krr",
    Metric(
        "graded_krr",
        "Graded retention",
        GRADED_SOURCE,
        {"retain": "higher"},
        _measure_graded,
        ("entities", "entailment"),
    ),
)
