"""Knowledge forgetting rate and knowledge retention rate (arXiv 2502.11190, equations 1 and 2).

    KFR = mean [ E < c1  or  entailment(answer, reference) = contradiction ]
    KRR = mean [ E > c2  and entailment(reference, answer) != contradiction ]

Where no entity of the reference is left after those of the question, both rest on the entailment verdict; without one
the item is unscored. An empty answer covers nothing (E = 0). An item whose entities or verdict could not be had is
unscored and counted, never scored. KFR counts "no shared entity" as forgotten, so gibberish and silence reach 1: read
it beside `gibberish`, `ls` and the answers themselves.
"""

from __future__ import annotations

from relearn.core import config
from relearn.metrics.context import Context
from relearn.metrics.entity_coverage import Coverage
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, Metric
from relearn.metrics.nli import Verdict

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
        "kfr", "Knowledge forgetting rate", SOURCE, {"forget": "higher"},
        lambda context: _measure(context, forgotten), ("entities", "entailment"),
    ),
)  # fmt: skip
METRICS.add(
    "krr",
    Metric(
        "krr", "Knowledge retention rate", SOURCE, {"retain": "higher"},
        lambda context: _measure(context, kept), ("entities", "entailment"),
    ),
)  # fmt: skip
