"""Questions asked several times by sampling: each round is scored on its own, then the rounds become one number.

A metric knows nothing of repeats. The value of a question is its mean over the rounds, the value of a set is the mean
over its questions with the interval over subjects, and `seed_sd` says how much the set's value moves from one round of
sampling to the next, which the interval does not.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from relearn.core import config
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.intervals import group, mean, mean_interval
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import Split
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
        "per_record": per_record, "why": next((found.why for found in rounds if found.why), ""),
        "repeats": len(rounds), "seed_sd": statistics.stdev(values) if len(values) > 1 else None,
        "groups": {
            name: combined([found.groups[name] for found in rounds if name in found.groups], subjects, settings, seed)
            for name in first.groups
        },
    }  # fmt: skip
    notes = [*dict.fromkeys(found.note for found in rounds if found.note), *_gaps(rounds, per_record)]
    if not values:
        return Measurement(None, note="; ".join(notes), **kept)
    if statistic_of(*(found for found in rounds if found.value is not None)) is mean:
        ids = sorted(key for key, value in per_record.items() if value is not None)
        clusters = group([subjects.get(key) for key in ids], len(ids))
        value, low, high = mean_interval(
            [per_record[key] for key in ids],  # pyright: ignore
            clusters=clusters.codes.tolist(), resamples=settings.bootstrap, seed=seed,
        )  # fmt: skip
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
