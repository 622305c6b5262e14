"""Answers in, every number of their split out: what the stages before/ and after/ of a run write down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relearn.core import config
from relearn.core.errors import InputError
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.entity_coverage import Coverage
from relearn.metrics.joint_context import Parts, split_metric
from relearn.metrics.judges import Judges
from relearn.metrics.knowledge import forgotten, kept
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, JointMetric, Metric, Split
from relearn.metrics.nli import Verdict
from relearn.metrics.repeats import combined, combined_items, rounds_of, rounds_of_parts
from relearn.metrics.retain_reference import RetainReference
from relearn.metrics.split_scores import SplitScores


def metrics_of(split: Split) -> list[str]:
    """The names of the metrics of one part that apply to a split, in order."""
    found = {name: metric for name in METRICS if isinstance(metric := METRICS.get(name), Metric)}
    if split == "holdout":
        return [name for name, metric in found.items() if metric.needs == ("reference",)]
    return [name for name, metric in found.items() if split in metric.better]


def metrics_about(
    split: Split, rows: Sequence[AnswerRow], judges: Judges, every: Sequence[AnswerRow] | None = None
) -> list[str]:
    """The metrics of a split that are about such rows; `every`: the rows of all parts, where there are more."""
    found = {name: split_metric(name) for name in metrics_of(split)}
    return [
        name
        for name, metric in found.items()
        if (metric.applies is None or metric.applies(rows, rows if every is None else every))
        and (judges.grader is not None or "judge" not in metric.needs)
    ]


def joint_metrics() -> list[str]:
    """The names of the metrics over several parts, in order."""
    return [name for name in METRICS if isinstance(METRICS.get(name), JointMetric)]


def score(
    rows: Sequence[AnswerRow],
    split: Split,
    settings: config.Metrics,
    *,
    judges: Judges,
    seed: int = 0,
    names: Iterable[str] | None = None,
) -> SplitScores:
    """Measure `names` (all that apply to the split when None) on the answers of one model to one split's questions.

    Raises InputError for ids that are not unique (results are kept by id, never matched by text) and for a metric that
    does not apply to the split.
    """
    if len(rounds := rounds_of(rows)) > 1:
        asked = [score(round, split, settings, judges=judges, seed=seed, names=names) for round in rounds]
        return _over_rounds(asked, settings, seed)
    _refuse_repeated_ids(rows, split)
    chosen = metrics_about(split, rows, judges) if names is None else list(names)
    for name in chosen:
        if split not in split_metric(name).better and name not in metrics_of(split):
            raise InputError(f"metric {name!r} does not apply to the {split} set")
    context = Context(rows, split, settings, judges, seed)
    return _split_scores(context, {name: split_metric(name).measure(context) for name in chosen})


def score_parts(
    parts: Mapping[str, tuple[Split, Sequence[AnswerRow]]],
    settings: config.Metrics,
    *,
    judges: Judges,
    seed: int = 0,
    names: Iterable[str] | None = None,
    reference: RetainReference | None = None,
) -> dict[str, SplitScores]:
    """Measure all parts of one model: on each what applies to its split, then what needs several of them.

    `parts`: name -> (split, rows). The names that metrics over several parts know: forget, retain, retain_heldout,
    holdout, real_authors, world_facts. What stands under no part of its own comes under "overall". `names` keeps those
    metrics alone, each where it applies; `reference` is the retain-only run to compare with. Raises InputError for ids
    that are not unique within a part and for a metric that does not exist.
    """
    chosen = None if names is None else [METRICS.get(name).name for name in names]
    if len(rounds := rounds_of_parts(parts)) > 1:
        asked = [
            score_parts(round, settings, judges=judges, seed=seed, names=chosen, reference=reference)
            for round in rounds
        ]
        own = {part: len(rounds_of(rows)) for part, (_, rows) in parts.items()}
        return {
            part: _over_rounds([found[part] for found in asked], settings, seed, own.get(part)) for part in asked[0]
        }
    for part, (_, rows) in parts.items():
        _refuse_repeated_ids(rows, part)
    contexts = {part: Context(rows, split, settings, judges, seed) for part, (split, rows) in parts.items()}
    together = Parts(contexts, settings, seed, reference)
    every = [row for _, rows in parts.values() for row in rows]
    found: dict[str, dict[str, Measurement]] = {}
    for part, context in contexts.items():
        if chosen is None:
            own = metrics_about(context.split, context.rows, judges, every)
        else:
            own = [name for name in metrics_of(context.split) if name in chosen]
        found[part] = {name: together.measured(part, name) for name in own}
    for metric in map(METRICS.get, joint_metrics()):
        if not isinstance(metric, JointMetric) or (chosen is not None and metric.name not in chosen):
            continue
        measured = metric.measure(together)
        if measured is not None:
            found.setdefault(metric.part, {})[metric.name] = measured
    return {
        part: _split_scores(contexts[part], measured) if part in contexts else SplitScores(measured, {})
        for part, measured in found.items()
    }


def _over_rounds(
    rounds: Sequence[SplitScores], settings: config.Metrics, seed: int, own: int | None = None
) -> SplitScores:
    """What was asked several times as one; a part that was asked `own` times counts so often, and what rests on several
    parts as often as any of them was asked.
    """
    first = rounds[0]
    subjects = {key: subject for found in rounds for key, subject in found.subjects.items()}
    names = dict.fromkeys(name for found in rounds for name in found.measurements)
    measurements = {
        name: combined(
            [found.measurements[name] for found in rounds[: _count(name, own)] if name in found.measurements],
            subjects, settings, seed,
        )
        for name in names
    }  # fmt: skip
    return SplitScores(measurements, combined_items([found.items for found in rounds[:own]]), first.split, subjects)


def _count(name: str, own: int | None) -> int | None:
    return None if isinstance(METRICS.get(name), JointMetric) else own


def _refuse_repeated_ids(rows: Sequence[AnswerRow], part: str) -> None:
    twice = [key for key, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise InputError(f"the id {twice[0]!r} stands on several rows", where=f"{part} answers")


def _split_scores(context: Context, measurements: Mapping[str, Measurement]) -> SplitScores:
    judged = any("entities" in METRICS.get(name).needs for name in measurements)
    subjects = {row.id: row.subject for row in context.rows}
    return SplitScores(measurements, _items(context) if judged else {}, context.split, subjects)


def _items(context: Context) -> dict[str, dict[str, Any]]:
    key, decide = ("forgotten", forgotten) if context.split == "forget" else ("kept", kept)
    return {
        row.id: {**_evidence(coverage, verdict), key: decide(coverage, verdict, context.settings)}
        for row, coverage, verdict in zip(context.rows, context.coverage, context.verdicts, strict=True)
    }


def _evidence(coverage: Coverage | None, verdict: Verdict | None) -> dict[str, Any]:
    return {
        "coverage": coverage.value if coverage else None,
        "reference_entities": list(coverage.reference) if coverage else None,
        "matched": list(coverage.matched) if coverage else None,
        "entailment": verdict.label if verdict else None,
    }
