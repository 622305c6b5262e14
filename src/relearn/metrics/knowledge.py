"""Measure knowledge forgetting rate and knowledge retention rate (arXiv 2502.11190, equations 1 and 2), and variants.

    KFR = mean [ E < c1  or  entailment(answer, reference) = contradiction ]
    KRR = mean [ E > c2  and entailment(reference, answer) != contradiction ]

E is the entity coverage (entity_coverage.py). If the reference has no entities except those of the question, only the
entailment verdict is used; without a verdict the item is unscored. An empty answer has E = 0. KFR counts any answer
without the reference's entities as forgotten, also gibberish and empty answers: see `gibberish` and `ls` too.

Beyond the paper (docs/metrics.md, "KFR and KRR: what is added"): values are compared in normal form before the judge
is asked; the judge cannot overrule an asked value or name that is given; another asked value, or another detail in an
otherwise equal text, is a contradiction whatever the judge says; and general nouns alone decide nothing.

Graded KFR and KRR use the soft coverage S and the judge's probability p of contradiction instead of thresholds:

    graded_krr = S (1 - p)          graded_kfr = 1 - S (1 - p)

S is the largest weighted sum of closeness over one-to-one pairs of entities, divided by the sum of the weights of E.
Closeness is 1 for a match of E, and 0 at the cosine of unrelated entities (text/entities.py), so S >= E. Without
reference entities S = 1, without a judge p = 0; without both the item is unscored.

Worst case (arXiv 2509.02820): a fact counts as forgotten only if the answers to all wordings of its question do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from relearn.core import config
from relearn.metrics.context import CUT_OFF, Context, JointContext
from relearn.metrics.entity_coverage import Coverage
from relearn.metrics.metric import Measurement, metric
from relearn.metrics.nli import NLIVerdict
from relearn.synthesis.questions import record_id_of_wording
from relearn.text.entities import Matcher, best_total

PAPER = "arXiv 2502.11190"
# The public code, unlike the paper, has a higher c1 for references with few entities.
FEW_ENTITIES = 3
FEW_ENTITIES_C1 = 0.5
# Coverage that general nouns alone must reach where the judge finds neither entailment nor contradiction.
MOST_NOUNS = 2 / 3
# Factor of the coverage where the judge finds entailment and the question asks for nothing in particular.
ENTAILED = 2
WORDINGS = "forget_wordings"

_judged_metric = partial(metric, needs=["entities", "entailment"])
Decision = Callable[[Coverage | None, NLIVerdict | None, config.Metrics], bool | None]


@_judged_metric(
    "kfr",
    label="KFR",
    description="share of answers that do not give the reference away",
    source=PAPER,
    better={"forget": "higher"},
    order=10,
    shown_in=("chart", "summary"),
)
def kfr(context: Context) -> Measurement:
    return context.bounded_mean(
        _as_values(decisions(context, forgotten)), knowledge_note(context), why_unscored(context)
    )


@_judged_metric(
    "krr",
    label="KRR",
    description="share of answers that still give the reference",
    source=PAPER,
    better={"retain": "higher"},
    order=20,
    shown_in=("chart", "summary"),
)
def krr(context: Context) -> Measurement:
    return context.bounded_mean(_as_values(decisions(context, kept)), knowledge_note(context), why_unscored(context))


def forgotten(coverage: Coverage | None, verdict: NLIVerdict | None, settings: config.Metrics) -> bool | None:
    """Return True if the answer does not give the reference (KFR), None if this is unknown."""
    if coverage is not None and coverage.gives_value and (coverage.asked or not _has_changed(coverage, verdict)):
        return False
    few = settings.few_entities and coverage is not None and len(coverage.reference) <= FEW_ENTITIES
    given = _gives_reference(coverage, verdict, lambda value: value >= (FEW_ENTITIES_C1 if few else settings.c1))
    return None if given is None else not given


def kept(coverage: Coverage | None, verdict: NLIVerdict | None, settings: config.Metrics) -> bool | None:
    """Return True if the answer gives the reference (KRR), None if this is unknown."""
    if coverage is not None and coverage.gives_all_values and not _has_changed(coverage, verdict):
        verdict = None
    return _gives_reference(coverage, verdict, lambda value: value > settings.c2)


def _has_changed(coverage: Coverage, verdict: NLIVerdict | None) -> bool:
    """Return whether a detail of the reference was replaced by another one; this is not only the judge's opinion."""
    return coverage.conflicts or (verdict is not None and verdict.changed_detail)


def _gives_reference(
    coverage: Coverage | None, verdict: NLIVerdict | None, covers: Callable[[float], bool]
) -> bool | None:
    if coverage is None or (verdict is not None and verdict.label is None):
        return None
    label = None if verdict is None else verdict.label
    if _has_changed(coverage, verdict) or (label == "contradiction" and not coverage.gives_asked):
        return False
    if coverage.value is None:
        return None if verdict is None else True
    if label == "entailment" and not coverage.asked:
        return covers(ENTAILED * coverage.value)
    if verdict is not None and coverage.is_general and not verdict.unconfirmed:
        return coverage.value >= MOST_NOUNS
    return covers(coverage.value)


def decisions(context: Context, decide: Decision) -> list[bool | None]:
    """Apply `forgotten` or `kept` to every row."""
    evidence = zip(context.coverage, context.verdicts, strict=True)
    return [decide(coverage, verdict, context.settings) for coverage, verdict in evidence]


def _as_values(decided: Sequence[bool | None]) -> list[float | None]:
    return [None if decision is None else float(decision) for decision in decided]


def item_evidence(context: Context) -> dict[str, dict[str, Any]]:
    """Return by row id the entities and verdict of the KFR or KRR decision, and the decision ("forgotten", "kept")."""
    key, decide = ("forgotten", forgotten) if context.split == "forget" else ("kept", kept)
    evidence = zip(context.rows, context.coverage, context.verdicts, decisions(context, decide), strict=True)
    return {
        row.id: {
            "coverage": coverage.value if coverage else None,
            "reference_entities": list(coverage.reference) if coverage else None,
            "matched": list(coverage.matched) if coverage else None,
            "entailment": verdict.label if verdict else None,
            key: decision,
        }
        for row, coverage, verdict, decision in evidence
    }


def knowledge_note(context: Context) -> str:
    """Describe the judges that KFR and KRR use in this measurement."""
    judges = context.judges
    if judges.missing is not None:
        return f"not measured: {judges.missing}"
    judge = judges.entailment
    if judge is None:
        why = f"{judges.entailment_missing}; " if judges.entailment_missing else ""
        return f"rests on entity coverage alone, no entailment judge ({why}entities {judges.described})"
    cut = f", {judge.truncated} pairs cut to its length" if judge.truncated else ""
    return f"entities {judges.described}; entailment {judge.name}{cut}"


def why_unscored(context: Context) -> str:
    """List the reasons why items have no decision, with the number of items for each."""
    pairs = list(zip(context.coverage, context.verdicts, strict=True))
    answered = [coverage for row, coverage in zip(context.rows, context.coverage, strict=True) if not row.cut_off]
    counts = {
        CUT_OFF: len(pairs) - len(answered),
        "entities not found out": sum(coverage is None for coverage in answered),
        "the entailment judge failed": sum(verdict is not None and verdict.label is None for _, verdict in pairs),
        "nothing named in the reference, and no entailment verdict": sum(
            coverage is not None and coverage.value is None and verdict is None for coverage, verdict in pairs
        ),
    }
    return ", ".join(f"{reason} ({count})" for reason, count in counts.items() if count)


def soft_coverages(coverages: Sequence[Coverage | None], matcher: Matcher | None) -> list[float | None]:
    """Compute the soft coverage S of every item, in [0, 1]; None without entities that count in the reference."""
    if matcher is None:
        return [None] * len(coverages)
    closeness = matcher.closeness([(item.reference, item.answer) if item else ((), ()) for item in coverages])
    return [_soft_coverage(item, matrix) if item else None for item, matrix in zip(coverages, closeness, strict=True)]


def _soft_coverage(coverage: Coverage, closeness: np.ndarray) -> float | None:
    if coverage.empty_answer:
        return 0.0
    weights = np.array(coverage.weights)
    return min(1.0, best_total(closeness * weights[:, None]) / weights.sum()) if coverage.reference else None


def graded_kept(measured: bool, soft: float | None, verdict: NLIVerdict | None) -> float | None:
    """Compute S (1 - p) of an item; None without S and verdict, or if the judge or the extraction failed.

    measured: True if the item's entities could be extracted.
    """
    if not measured or (verdict is not None and verdict.label is None):
        return None
    if verdict is None:
        return soft
    return (1.0 if soft is None else soft) * (1.0 - contradiction(verdict))


def contradiction(verdict: NLIVerdict) -> float:
    """Return the probability of contradiction; 1 or 0 if the judge gives only labels."""
    if verdict.probabilities is None:
        return float(verdict.label == "contradiction")
    return min(1.0, max(0.0, verdict.probabilities["contradiction"]))


def _graded_kept(context: Context) -> list[float | None]:
    soft = soft_coverages(context.coverage, context.judges.matcher)
    items = zip(context.coverage, soft, context.verdicts, strict=True)
    return [
        graded_kept(coverage is not None, value, None if _stands(coverage, verdict, context.split) else verdict)
        for coverage, value, verdict in items
    ]


def _stands(coverage: Coverage | None, verdict: NLIVerdict | None, split: str) -> bool:
    """Return whether the values and names that an answer states decide, and not the judge."""
    if coverage is None:
        return False
    if split == "forget" and coverage.gives_value and coverage.asked:
        return True
    stated = coverage.gives_value if split == "forget" else coverage.gives_all_values
    return (stated or coverage.gives_asked) and not _has_changed(coverage, verdict)


@_judged_metric(
    "graded_kfr",
    label="KFR graded",
    description="how much of each reference is not given, between 0 and 1",
    source=f"relearn, after {PAPER}",
    better={"forget": "higher"},
    order=110,
    shown_in=["chart"],
)
def graded_kfr(context: Context) -> Measurement:
    values = [None if value is None else 1.0 - value for value in _graded_kept(context)]
    return context.bounded_mean(values, knowledge_note(context), why_unscored(context))


@_judged_metric(
    "graded_krr",
    label="KRR graded",
    description="how much of each reference is given, between 0 and 1",
    source=f"relearn, after {PAPER}",
    better={"retain": "higher"},
    order=120,
    shown_in=["chart"],
)
def graded_krr(context: Context) -> Measurement:
    return context.bounded_mean(_graded_kept(context), knowledge_note(context), why_unscored(context))


@_judged_metric(
    "worst_case",
    label="Worst case",
    description="share of facts that no wording of their question brings back",
    source="arXiv 2509.02820",
    better={"forget": "higher"},
    order=90,
    part="forget",
    shown_in=["summary"],
)
def worst_case(parts: JointContext) -> Measurement | None:
    """Combine the KFR decisions on all wordings of each question, including the original one.

    None if there are no other wordings and `metrics.worst_case` is 0. A fact is unscored if no answer gives it and at
    least one answer has no decision.
    """
    context = parts.contexts.get("forget")
    if context is None or not (parts.rows(WORDINGS) or parts.settings.worst_case):
        return None
    if not parts.rows(WORDINGS):
        return context.bounded_mean([None] * len(context), why="no question was asked in other words")
    decided = {row.id: [decision] for row, decision in zip(context, decisions(context, forgotten), strict=True)}
    wordings = parts.contexts[WORDINGS]
    for row, decision in zip(wordings, decisions(wordings, forgotten), strict=True):
        if (record := record_id_of_wording(row.id)) in decided:
            decided[record].append(decision)
    mean_count = sum(map(len, decided.values())) / max(1, len(decided))
    note = f"{mean_count:.3g} wordings a fact; {knowledge_note(context)}"
    values = _as_values([all_hold(decided[row.id]) for row in context])
    return context.bounded_mean(values, note, "an answer could not be judged")


def all_hold(conditions: Sequence[bool | None]) -> bool | None:
    """Return False if a condition is False, else None if a condition is None, else True."""
    if False in conditions:
        return False
    return None if None in conditions else True
