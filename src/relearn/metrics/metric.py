"""Define and register metrics: the decorator `@metric`, the registry METRICS, and the result of a measurement.

To add a metric, decorate a function with `@metric` in a file of this package or in your own file; nothing else is
needed. `score.score` makes a `context.Context` from the answer rows, calls the metric's function with it, and gets a
`Measurement`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from relearn.core.errors import InputError
from relearn.core.registry import Registry
from relearn.core.splits import ScoredSplit
from relearn.metrics.answer_row import AnswerRow

Better = Literal["higher", "lower", "closer"]
MetricInput = Literal["entities", "entailment", "logprobs", "reference", "judge"]
Unit = Literal["share", "grade", "percent", "number"]
Overview = Literal["chart", "summary"]
# The least and the greatest value of each unit; None where there is no bound.
UNIT_BOUNDS: Mapping[Unit, tuple[float | None, float | None]] = {
    "share": (0.0, 1.0),
    "grade": (1.0, 5.0),
    "percent": (-100.0, None),
    "number": (None, None),
}
# The default `order`: after all other metrics, sorted by name.
LAST = 1000


@dataclass(frozen=True)
class Measurement:
    """Hold the value of one metric on one set of answers, with its interval; None if no item could be scored.

    low, high: bounds of the 95 % interval; `clusters` is the number of its subjects.
    n, unscored: numbers of items with and without a value; `why`: the reason for items without a value.
    per_record: the value of each item by row id, None if unscored. groups: the same measurement on the items with one
    tag (a probe's level, its attack). note: the judges or data that the value depends on.
    repeats: number of answers sampled per question. Values are then means over the repeats, and `seed_sd` is the
    standard deviation (n - 1) of the values of the repeats.
    """

    value: float | None
    _: KW_ONLY
    low: float | None = None
    high: float | None = None
    n: int = 0
    unscored: int = 0
    per_record: Mapping[str, float | None] = field(default_factory=dict)
    note: str = ""
    why: str = ""
    clusters: int | None = None
    repeats: int = 1
    seed_sd: float | None = None
    groups: Mapping[str, Measurement] = field(default_factory=dict)

    @property
    def missing(self) -> str:
        """Describe the number of unscored items and the reason; empty if every item has a value."""
        if not self.unscored:
            return ""
        return f"{self.unscored} of {self.n + self.unscored} unscored: {self.why or 'could not be measured'}"

    def to_dict(self, *, per_record: bool = False) -> dict[str, Any]:
        summary: dict[str, Any] = {name: getattr(self, name) for name in ("value", "low", "high", "n", "unscored")}
        if self.clusters is not None:
            summary["clusters"] = self.clusters
        if self.repeats > 1:
            summary |= {"repeats": self.repeats, "seed_sd": self.seed_sd}
        if self.groups:
            summary["groups"] = {name: measured.to_dict() for name, measured in self.groups.items()}
        if self.missing:
            summary["missing"] = self.missing
        if self.note:
            summary["note"] = self.note
        if per_record:
            summary["per_record"] = dict(self.per_record)
        return summary


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Describe a registered metric of one set of answers; the fields are the arguments of `@metric`."""

    name: str
    label: str
    description: str
    better: Mapping[ScoredSplit, Better]
    measure: Callable[[Any], Measurement | None]
    source: str = ""
    needs: tuple[MetricInput, ...] = ()
    applies: Callable[[Sequence[AnswerRow], Sequence[AnswerRow]], bool] | None = None
    unit: Unit = "share"
    order: int = LAST
    shown_in: tuple[Overview, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JointMetric(Metric):
    """Describe a metric that needs several parts of a run, or another run; its value is reported under `part`."""

    part: str


# The sub-package entailment_builtin is not searched, because it would load torch.
METRICS: Registry[Metric] = Registry("metric", "relearn.metrics", nested=False)
MetricFunction = TypeVar("MetricFunction", bound=Callable[..., Any])


def metric(
    name: str,
    *,
    label: str,
    description: str,
    better: Mapping[ScoredSplit, Better],
    source: str = "",
    needs: Sequence[MetricInput] = (),
    unit: Unit = "share",
    order: int = LAST,
    unscored: str = "",
    applies: Callable[[Sequence[AnswerRow], Sequence[AnswerRow]], bool] | None = None,
    part: str | None = None,
    shown_in: Sequence[Overview] = (),
) -> Callable[[MetricFunction], MetricFunction]:
    """Register the decorated function as a metric and return it unchanged.

        from relearn.metrics.metric import metric

        @metric("words", label="Words", description="words per answer", better={"retain": "higher"}, unit="number")
        def words(rows):
            return [len(row.response.split()) or None for row in rows]

    The function gets a `Context`: a sequence of `AnswerRow` (id, question, reference, response, log-probabilities, ...)
    with the split, the settings and values that several metrics share (entity coverage, entailment verdicts, judges).
    It returns one number per row, or None for a row that cannot be scored. The metric is the mean over the scored rows
    with a 95 % interval over subjects: that of a share where all values are 0 or 1 and the unit is "share", else by the
    bootstrap. A function that needs a note or another statistic returns a `Measurement` (`Context.bounded_mean` for
    shares, `Context.mean`, `Context.summarise`).

    name: key in summary.json and on the command line. label: short name in tables and charts. description: the meaning
        of the value, shown below the label. source: paper (arXiv id) or "relearn".
    better: the splits that the metric is measured on ("forget", "retain") and the direction of improvement on each:
        "higher", "lower", or "closer" to the value in the description.
    needs: inputs in addition to the texts: "entities", "entailment" (judges), "judge" (a grading language model;
        without one the metric is left out unless requested by name), "logprobs" (of the response or the choices),
        "reference" (log-probabilities of the reference answer; the response is not used). Without them rows are
        unscored.
    unit: "share" (0 to 1), "grade" (1 to 5), "percent" (a relative change, at least -100), "number" (any).
    order: position in tables, lowest first; by default after all others, sorted by name.
    unscored: the reason for rows without a value, for the report. applies(rows, all_rows): True if the metric can be
        measured on these rows; otherwise it is left out unless requested by name.
    part: for a metric over several parts of a run, the part under which its value is reported. The function then gets
        a `JointContext` and returns a `Measurement`, or None if the run has no such parts.
    shown_in: "chart" (the report's chart of shares), "summary" (the terminal and the browser interface). The report's
        tables have every metric.

    Raises ValueError for a name that is already registered. `check_metric.check_metric(name)` checks the function.
    """

    def register(function: MetricFunction) -> MetricFunction:
        fields: dict[str, Any] = dict(name=name, label=label, description=description, source=source, unit=unit)
        fields |= dict(better=dict(better), needs=tuple(needs), shown_in=tuple(shown_in), order=order, applies=applies)
        if part is not None:
            METRICS.add(name, JointMetric(part=part, measure=function, **fields))
        else:
            METRICS.add(name, Metric(measure=partial(_measure, name, function, unscored=unscored), **fields))
        return function

    return register


def _measure(name: str, function: Callable[..., Any], context: Any, *, unscored: str) -> Measurement:
    """Call a metric's function, and convert values per row to their mean with its interval."""
    result = function(context)
    if isinstance(result, Measurement):
        return result
    values = [None if value is None else float(value) for value in result]
    if len(values) != len(context):
        raise InputError(f"metric {name!r} returned {len(values)} values for {len(context)} answers")
    low, high = UNIT_BOUNDS.get(METRICS.get(name).unit, (None, None))
    if low is None or high is None:
        return context.mean(values, why=unscored)
    return context.bounded_mean(values, why=unscored, bounds=(low, high))


def split_metric(name: str) -> Metric:
    """Look up a metric of one part; raises InputError for a metric over several parts and for an unknown name."""
    found = METRICS.get(name)
    if isinstance(found, JointMetric):
        raise InputError(f"metric {name!r} needs several parts of a run", way_out="score them together: score_parts")
    return found


# Measures of ability tasks for which lower is better.
_LOWER = ("perplexity", "bits_per_byte", "brier_score", "ter")


def direction_of(name: str, split: str) -> Better | None:
    """Return the better direction of a metric, or of an ability measure ("TASK/MEASURE"); None if unknown."""
    if name in METRICS:
        return next((better for scored, better in METRICS.get(name).better.items() if scored == split), None)
    if "/" not in name:
        return None
    return "lower" if name.rpartition("/")[2].partition(" ")[0].endswith(_LOWER) else "higher"


@dataclass(frozen=True)
class SplitScores:
    """Hold all measurements on one part of one model.

    measurements: by metric name. items: by row id, the entities, verdict and decision of KFR or KRR; empty if neither
    was measured. split: the split whose metrics were measured. subjects: the subject of each row, by row id.
    """

    measurements: Mapping[str, Measurement]
    items: Mapping[str, Mapping[str, Any]]
    split: ScoredSplit | Literal["overall"] = "overall"
    subjects: Mapping[str, str | None] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return values, intervals and counts by metric name, without texts."""
        return {name: measured.to_dict() for name, measured in self.measurements.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return values, intervals and counts, with the value of each item and its entities and verdict."""
        metrics = {name: measured.to_dict(per_record=True) for name, measured in self.measurements.items()}
        return {"metrics": metrics, "items": {key: dict(item) for key, item in self.items.items()}}


def summary(parts: Mapping[str, SplitScores]) -> dict[str, Any]:
    """Return the content of summary.json for the parts (forget, retain, forget_heldout, ..., overall) of one model."""
    return {part: scored.summary() for part, scored in parts.items()}


def scores(parts: Mapping[str, SplitScores]) -> dict[str, Any]:
    """Return the content of scores.json for the parts of one model, with the values and evidence of each item."""
    return {part: scored.to_dict() for part, scored in parts.items()}
