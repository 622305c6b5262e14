"""Score the answers of one model: every metric of one part (`score`) or of all parts of a run (`score_parts`).

If questions were sampled several times (`AnswerRow.repeat`), each repeat is scored separately and the measurements are
combined, so that metrics need no code for repeats. The value of a question is its mean over the repeats. The value of a
set is the mean over its questions, with the interval over subjects. `seed_sd` is the standard deviation of the set's
value over the repeats; the interval does not include it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relearn.core import config
from relearn.core.errors import InputError
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context, JointContext
from relearn.metrics.intervals import binomial_interval, group, mean, mean_interval
from relearn.metrics.judges import Judges
from relearn.metrics.knowledge import item_evidence
from relearn.metrics.metric import METRICS, JointMetric, Measurement, ScoredSplit, SplitScores, Unit, split_metric
from relearn.metrics.paired import statistic_of
from relearn.metrics.retain_reference import RetainReference

AnswersByPart = Mapping[str, tuple[ScoredSplit, Sequence[AnswerRow]]]


def score(
    rows: Sequence[AnswerRow],
    split: ScoredSplit,
    settings: config.Metrics,
    *,
    judges: Judges,
    seed: int = 0,
    names: Iterable[str] | None = None,
) -> SplitScores:
    """Score one model's answers on one split with the metrics `names` (None: all that apply to the split).

    Raises InputError for ids that are not unique (results are kept by id, never matched by text) and for a metric that
    does not apply to the split.
    """
    if len(repeats := _split_repeats(rows)) > 1:
        scored = [score(rows, split, settings, judges=judges, seed=seed, names=names) for rows in repeats]
        return _combine_scores(scored, settings, seed)
    _check_unique_ids(rows, split)
    names = applicable_metrics(split, rows, judges) if names is None else list(names)
    for name in names:
        if split not in split_metric(name).better and name not in metrics_of(split):
            raise InputError(f"metric {name!r} does not apply to the {split} set")
    context = Context(rows, split=split, settings=settings, judges=judges, seed=seed)
    together = JointContext({split: context}, settings=settings, seed=seed)
    return _split_scores(context, {name: together.measurement(split, name) for name in names})


def score_parts(
    parts: AnswersByPart,
    settings: config.Metrics,
    *,
    judges: Judges,
    seed: int = 0,
    names: Iterable[str] | None = None,
    reference: RetainReference | None = None,
) -> dict[str, SplitScores]:
    """Score all parts of one model: each part with the metrics of its split, then the metrics over several parts.

    parts: name -> (split, rows). Metrics over several parts use the names forget, forget_wordings, retain,
    retain_heldout, holdout, real_authors and world_facts; model utility is reported under "overall".
    names: measure only these metrics, on the parts to which they apply. reference: scores of a retain-only run.
    Raises InputError for ids that are not unique within a part and for a metric that does not exist.
    """
    names = None if names is None else [METRICS.get(name).name for name in names]
    if len(repeats := _split_repeats_of_parts(parts)) > 1:
        scored = [
            score_parts(parts, settings, judges=judges, seed=seed, names=names, reference=reference)
            for parts in repeats
        ]
        counts = {part: len(_split_repeats(rows)) for part, (_, rows) in parts.items()}
        return {
            part: _combine_scores([of_parts[part] for of_parts in scored], settings, seed, counts.get(part))
            for part in scored[0]
        }
    for part, (_, rows) in parts.items():
        _check_unique_ids(rows, part)
    contexts = {
        part: Context(rows, split=split, settings=settings, judges=judges, seed=seed)
        for part, (split, rows) in parts.items()
    }
    together = JointContext(contexts, settings=settings, seed=seed, reference=reference)
    measured = _measure_each_part(together, judges, names)
    for metric in map(METRICS.get, METRICS):
        if isinstance(metric, JointMetric) and (names is None or metric.name in names):
            measurement = metric.measure(together)
            if measurement is not None:
                measured.setdefault(metric.part, {})[metric.name] = measurement
    return {
        part: _split_scores(contexts[part], of_part) if part in contexts else SplitScores(of_part, {})
        for part, of_part in measured.items()
    }


def _measure_each_part(
    together: JointContext, judges: Judges, names: Sequence[str] | None
) -> dict[str, dict[str, Measurement]]:
    all_rows = [row for context in together.contexts.values() for row in context.rows]
    measured: dict[str, dict[str, Measurement]] = {}
    for part, context in together.contexts.items():
        if names is None:
            of_part = applicable_metrics(context.split, context.rows, judges, all_rows)
        else:
            of_part = [name for name in metrics_of(context.split) if name in names]
        measured[part] = {name: together.measurement(part, name) for name in of_part}
    return measured


def metrics_of(split: ScoredSplit) -> list[str]:
    """List the names of the metrics of one part that are measured on a split, in alphabetical order."""
    metrics = [metric for metric in map(METRICS.get, METRICS) if not isinstance(metric, JointMetric)]
    if split == "holdout":
        return [metric.name for metric in metrics if metric.needs == ("reference",)]
    return [metric.name for metric in metrics if split in metric.better]


def applicable_metrics(
    split: ScoredSplit, rows: Sequence[AnswerRow], judges: Judges, all_rows: Sequence[AnswerRow] | None = None
) -> list[str]:
    """List the metrics of a split that apply to these rows; all_rows: the rows of all parts, if there are several."""
    return [
        metric.name
        for metric in map(METRICS.get, metrics_of(split))
        if (metric.applies is None or metric.applies(rows, rows if all_rows is None else all_rows))
        and (judges.grader is not None or "judge" not in metric.needs)
    ]


def _check_unique_ids(rows: Sequence[AnswerRow], part: str) -> None:
    repeated = [key for key, count in Counter(row.id for row in rows).items() if count > 1]
    if repeated:
        raise InputError(f"the id {repeated[0]!r} is on several rows", where=f"{part} answers")


def _split_scores(context: Context, measurements: Mapping[str, Measurement]) -> SplitScores:
    judged = any("entities" in METRICS.get(name).needs for name in measurements)
    subjects = {row.id: row.subject for row in context.rows}
    return SplitScores(measurements, item_evidence(context) if judged else {}, context.split, subjects)


def _split_repeats(rows: Sequence[AnswerRow]) -> list[list[AnswerRow]]:
    """Group the rows by `repeat`, in ascending order; one group if no question was sampled twice."""
    numbers = sorted({row.repeat for row in rows}) or [0]
    return [[row for row in rows if row.repeat == number] for number in numbers]


def _split_repeats_of_parts(parts: AnswersByPart) -> list[dict[str, tuple[ScoredSplit, Sequence[AnswerRow]]]]:
    """Group the rows of all parts by repeat; a part with fewer repeats adds its first repeat to the other groups."""
    repeats = {part: _split_repeats(rows) for part, (_, rows) in parts.items()}
    return [
        {
            part: (split, repeats[part][number] if number < len(repeats[part]) else repeats[part][0])
            for part, (split, _) in parts.items()
        }
        for number in range(max(map(len, repeats.values()), default=1))
    ]


def _combine_scores(
    repeats: Sequence[SplitScores], settings: config.Metrics, seed: int, count: int | None = None
) -> SplitScores:
    """Combine the scores of all repeats of a part.

    count: the number of repeats of this part, if other parts have more. Metrics over several parts use all repeats.
    """
    subjects = {key: subject for scored in repeats for key, subject in scored.subjects.items()}
    names = dict.fromkeys(name for scored in repeats for name in scored.measurements)
    measurements = {}
    for name in names:
        own = repeats if isinstance(METRICS.get(name), JointMetric) else repeats[:count]
        measured = [scored.measurements[name] for scored in own if name in scored.measurements]
        measurements[name] = combine_repeats(measured, subjects, settings, seed, unit=METRICS.get(name).unit)
    items = _combine_items([scored.items for scored in repeats[:count]])
    return SplitScores(measurements, items, repeats[0].split, subjects)


def combine_repeats(
    repeats: Sequence[Measurement],
    subjects: Mapping[str, str | None],
    settings: config.Metrics,
    seed: int = 0,
    *,
    unit: Unit = "share",
) -> Measurement:
    """Combine the measurements of one metric, which has this unit, over all repeats into one."""
    first = repeats[0]
    values = [measured.value for measured in repeats if measured.value is not None]
    per_record = _mean_per_record(repeats)
    shared = {
        "n": sum(value is not None for value in per_record.values()) if per_record else first.n,
        "unscored": sum(value is None for value in per_record.values()) if per_record else first.unscored,
        "per_record": per_record,
        "why": next((measured.why for measured in repeats if measured.why), ""),
        "repeats": len(repeats),
        "seed_sd": statistics.stdev(values) if len(values) > 1 else None,
        "groups": {
            name: combine_repeats(
                [one.groups[name] for one in repeats if name in one.groups], subjects, settings, seed, unit=unit
            )
            for name in first.groups
        },
    }
    notes = [*dict.fromkeys(one.note for one in repeats if one.note), *_partial_questions(repeats, per_record)]
    if not values:
        return Measurement(None, note="; ".join(notes), **shared)
    if statistic_of(*(measured for measured in repeats if measured.value is not None)) is mean:
        scored = {key: value for key, value in sorted(per_record.items()) if value is not None}
        clusters = group([subjects.get(key) for key in scored], len(scored))
        means, codes = list(scored.values()), clusters.codes.tolist()
        if unit == "share" and _is_decided(repeats):
            value, low, high = binomial_interval(means, clusters=codes)
        else:
            value, low, high = mean_interval(means, clusters=codes, resamples=settings.bootstrap, seed=seed)
        return Measurement(value, low=low, high=high, note="; ".join(notes), clusters=clusters.count, **shared)
    low, high = (_mean_of_known([getattr(measured, end) for measured in repeats]) for end in ("low", "high"))
    notes += ["interval: mean of those of the repeats"] if low is not None else []
    value = statistics.fmean(values)
    return Measurement(value, low=low, high=high, note="; ".join(notes), clusters=first.clusters, **shared)


def _is_decided(repeats: Sequence[Measurement]) -> bool:
    """Return True if every answer in every repeat has the value 0 or 1."""
    return {value for measured in repeats for value in measured.per_record.values()} <= {0.0, 1.0, None}


def _mean_per_record(repeats: Sequence[Measurement]) -> dict[str, float | None]:
    ids = dict.fromkeys(key for measured in repeats for key in measured.per_record)
    return {key: _mean_of_known([measured.per_record.get(key) for measured in repeats]) for key in ids}


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _partial_questions(repeats: Sequence[Measurement], per_record: Mapping[str, float | None]) -> list[str]:
    """Make a note if a question's value is the mean of fewer answers than were sampled."""
    scored = [sum(measured.per_record.get(key) is not None for measured in repeats) for key in per_record]
    partial = sum(0 < count < len(repeats) for count in scored)
    return [f"{partial} questions are means of fewer than {len(repeats)} answers"] if partial else []


def _combine_items(repeats: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Keep the evidence of the first answer to each question, and add the decisions on all answers as `repeats`."""
    combined: dict[str, dict[str, Any]] = {}
    for items in repeats:
        for key, item in items.items():
            first = combined.setdefault(key, {**item, "repeats": []})
            first["repeats"].append(next((item[name] for name in ("forgotten", "kept") if name in item), None))
    return combined
