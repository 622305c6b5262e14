"""Answers in, every number of their split out: what the stages before/ and after/ of a run write down.

Questions asked several times by sampling: each round is scored on its own, then the rounds become one number.

A metric knows nothing of repeats. The value of a question is its mean over the rounds, the value of a set is the mean
over its questions with the interval over subjects, and `seed_sd` says how much the set's value moves from one round of
sampling to the next, which the interval does not.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relearn.core import config
from relearn.core.errors import InputError
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.entity_coverage import Coverage
from relearn.metrics.intervals import group, mean, mean_interval
from relearn.metrics.joint_context import Parts, RetainReference, split_metric
from relearn.metrics.judges import Judges
from relearn.metrics.knowledge import forgotten, kept
from relearn.metrics.metric import METRICS, JointMetric, Measurement, Metric, Split, SplitScores
from relearn.metrics.nli import Verdict
from relearn.metrics.paired import statistic_of

AVERAGED = "interval: mean of those of the repeats"


def rounds_of(rows: Sequence[AnswerRow]) -> list[list[AnswerRow]]:
    """The rows by their `repeat`, in its order; one round where nothing was asked twice."""
    numbers = sorted({row.repeat for row in rows}) or [0]
    return [[row for row in rows if row.repeat == number] for number in numbers]


def rounds_of_parts(
    parts: Mapping[str, tuple[Split, Sequence[AnswerRow]]],
) -> list[dict[str, tuple[Split, Sequence[AnswerRow]]]]:
    """The parts by round; a part that was asked fewer times stands in the other rounds with its first."""
    rounds = {part: rounds_of(rows) for part, (_, rows) in parts.items()}
    count = max(map(len, rounds.values()), default=1)
    return [
        {
            part: (split, rounds[part][at] if at < len(rounds[part]) else rounds[part][0])
            for part, (split, _) in parts.items()
        }
        for at in range(count)
    ]


def combined(
    rounds: Sequence[Measurement], subjects: Mapping[str, str | None], settings: config.Metrics, seed: int = 0
) -> Measurement:
    """One measurement for all rounds of asking."""
    first = rounds[0]
    values = [found.value for found in rounds if found.value is not None]
    per_record = _means(rounds)
    kept = {
        "n": sum(value is not None for value in per_record.values()) if per_record else first.n,
        "unscored": sum(value is None for value in per_record.values()) if per_record else first.unscored,
        "per_record": per_record,
        "why": next((found.why for found in rounds if found.why), ""),
        "repeats": len(rounds),
        "seed_sd": statistics.stdev(values) if len(values) > 1 else None,
        "groups": {
            name: combined([found.groups[name] for found in rounds if name in found.groups], subjects, settings, seed)
            for name in first.groups
        },
    }
    notes = [*dict.fromkeys(found.note for found in rounds if found.note), *_gaps(rounds, per_record)]
    if not values:
        return Measurement(None, note="; ".join(notes), **kept)
    if statistic_of(*(found for found in rounds if found.value is not None)) is mean:
        ids = sorted(key for key, value in per_record.items() if value is not None)
        clusters = group([subjects.get(key) for key in ids], len(ids))
        value, low, high = mean_interval(
            [per_record[key] for key in ids],  # pyright: ignore
            clusters=clusters.codes.tolist(),
            resamples=settings.bootstrap,
            seed=seed,
        )
        return Measurement(value, low, high, note="; ".join(notes), clusters=clusters.count, **kept)
    low, high = (_mean([getattr(found, end) for found in rounds]) for end in ("low", "high"))
    notes += [AVERAGED] if low is not None else []
    return Measurement(statistics.fmean(values), low, high, note="; ".join(notes), clusters=first.clusters, **kept)


def _means(rounds: Sequence[Measurement]) -> dict[str, float | None]:
    ids = dict.fromkeys(key for found in rounds for key in found.per_record)
    return {key: _mean([found.per_record.get(key) for found in rounds]) for key in ids}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _gaps(rounds: Sequence[Measurement], per_record: Mapping[str, float | None]) -> list[str]:
    """Says so where a question's value is the mean of fewer answers than were asked for."""
    scored = [sum(found.per_record.get(key) is not None for found in rounds) for key in per_record]
    partly = sum(0 < count < len(rounds) for count in scored)
    return [f"{partly} questions are means of fewer than {len(rounds)} answers"] if partly else []


def combined_items(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The evidence of the first answer to each question, with what was decided of all of them under `repeats`."""
    found: dict[str, dict[str, Any]] = {}
    for items in rounds:
        for key, item in items.items():
            first = found.setdefault(key, {**item, "repeats": []})
            first["repeats"].append(next((item[name] for name in ("forgotten", "kept") if name in item), None))
    return found


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
            subjects,
            settings,
            seed,
        )
        for name in names
    }
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
