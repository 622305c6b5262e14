"""Define and register metrics: the decorator `@metric`, the registry METRICS, and the result of a measurement.

To add a metric, decorate a function with `@metric` in a file of this package or in a file of your own; nothing else has
to name it. The path from answers to a number: `score.score` builds a `context.Context` of the answer rows, calls the
metric's function with it, and gets a `Measurement`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeVar

from relearn.core.errors import InputError
from relearn.core.registry import Registry
from relearn.metrics.answer_row import AnswerRow

# "holdout": records like those of the forget set that were never trained on. Only metrics that rest on the reference
# answer alone are measured there.
ScoredSplit = Literal["forget", "retain", "holdout"]
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
# The place of a metric that names none: after all others, in the order of their names.
LAST = 1000


@dataclass(frozen=True)
class Measurement:
    """The value of one metric on one set of answers, with its interval; None where no item could be scored.

    low, high: bounds of the 95 % bootstrap interval; `clusters` is the number of subjects that were resampled.
    n, unscored: numbers of items with and without a value; `why`: the reason for the latter.
    per_record: the value of each item by row id, None where unscored. groups: the same measurement on the items of one
    kind each (a probe's level, its attack). note: the judges or data that the value depends on.
    repeats: how often each question was sampled; values are then means over the repeats, and `seed_sd` is the standard
    deviation (n - 1) of the repeats' own values.
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
        """The number of unscored items and the reason; empty when every item has a value."""
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
    """A metric of one set of answers; the fields are the arguments of `@metric`."""

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
    """A metric that needs several parts of a run, or another run; its number is reported under `part`."""

    part: str


# Without the sub-package entailment_builtin, which would load torch.
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
    with the split, the settings and what several metrics share (entity coverage, entailment verdicts, judges). It
    returns one number per row, None where the row cannot be scored; the metric is the mean over the scored rows with a
    95 % bootstrap interval over subjects. A function that needs a note or another statistic returns a `Measurement`
    (`Context.mean`, `Context.summarise`).

    name: key in summary.json and on the command line. label: short name in tables and charts. description: what the
        number says, shown below the label. source: paper (arXiv id) or "relearn".
    better: the splits that the metric is measured on ("forget", "retain") and the direction of improvement on each:
        "higher", "lower", or "closer" to the value that the description names.
    needs: inputs beside the texts: "entities", "entailment" (judges), "judge" (a grading language model; without one
        the metric is left out unless asked for by name), "logprobs" (of the response or the choices), "reference"
        (log-probabilities of the reference answer; the metric does not look at the response). Without them rows are
        unscored.
    unit: "share" (0 to 1), "grade" (1 to 5), "percent" (a relative change, at least -100), "number" (any).
    order: place in tables, lowest first; without one after all others, by name.
    unscored: why rows have no value, for the report. applies(rows, all_rows): whether the metric is about such rows;
        where it is not, it is left out unless asked for by name.
    part: for a metric over several parts of a run, the part that its number is reported under. The function then gets
        a `JointContext` and returns a `Measurement`, or None where the run has no such parts.
    shown_in: "chart" (the report's chart of shares), "summary" (the terminal and the browser interface). The report's
        tables have every metric.

    Raises ValueError for a name that is already registered. `contract.check_metric(name)` checks the function.
    """

    def register(function: MetricFunction) -> MetricFunction:
        fields: dict[str, Any] = {
            "name": name,
            "label": label,
            "description": description,
            "better": dict(better),
            "source": source,
            "needs": tuple(needs),
            "unit": unit,
            "order": order,
            "applies": applies,
            "shown_in": tuple(shown_in),
        }
        if part is not None:
            METRICS.add(name, JointMetric(part=part, measure=function, **fields))
        else:
            METRICS.add(name, Metric(measure=lambda context: _measure(name, function, context, unscored), **fields))
        return function

    return register


def _measure(name: str, function: Callable[..., Any], context: Any, unscored: str) -> Measurement:
    """Call a metric's function; turn values per row into their mean with its interval."""
    result = function(context)
    if isinstance(result, Measurement):
        return result
    values = [None if value is None else float(value) for value in result]
    if len(values) != len(context):
        raise InputError(f"metric {name!r} returned {len(values)} values for {len(context)} answers")
    return context.mean(values, why=unscored)


def split_metric(name: str) -> Metric:
    """Look up a metric of one part; raises InputError for a metric over several parts and for an unknown name."""
    found = METRICS.get(name)
    if isinstance(found, JointMetric):
        raise InputError(f"metric {name!r} needs several parts of a run", way_out="score them together: score_parts")
    return found


# Measures of ability tasks of which less is better.
_LOWER = ("perplexity", "bits_per_byte", "brier_score", "ter")


def direction_of(name: str, split: str) -> Better | None:
    """Return which direction is better for a metric, or for an ability measure ("TASK/MEASURE"); None if unknown."""
    if name in METRICS:
        return {str(own): better for own, better in METRICS.get(name).better.items()}.get(split)
    if "/" not in name:
        return None
    return "lower" if name.rpartition("/")[2].partition(" ")[0].endswith(_LOWER) else "higher"


@dataclass(frozen=True)
class SplitScores:
    """All measurements on one part of one model.

    measurements: by metric name. items: by row id, the evidence for KFR or KRR (entities, verdict, decision); empty
    when neither was measured. split: how the part was scored. subjects: the subject of each row, by row id.
    """

    measurements: Mapping[str, Measurement]
    items: Mapping[str, Mapping[str, Any]]
    split: ScoredSplit | Literal["overall"] = "overall"
    subjects: Mapping[str, str | None] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Values, intervals and counts, without texts."""
        return {name: measured.to_dict() for name, measured in self.measurements.items()}

    def to_dict(self) -> dict[str, Any]:
        """Values, intervals, counts, the value of each item and its evidence (entities)."""
        metrics = {name: measured.to_dict(per_record=True) for name, measured in self.measurements.items()}
        return {"metrics": metrics, "items": {key: dict(item) for key, item in self.items.items()}}


def summary(parts: Mapping[str, SplitScores]) -> dict[str, Any]:
    """Return the content of summary.json for the parts (forget, retain, forget_heldout, ..., overall) of one model."""
    return {part: scored.summary() for part, scored in parts.items()}


def scores(parts: Mapping[str, SplitScores]) -> dict[str, Any]:
    """Return the content of scores.json for the parts of one model, with the value and the evidence of each item."""
    return {part: scored.to_dict() for part, scored in parts.items()}
