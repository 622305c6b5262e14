"""What a metric is, and where it is registered.

A new metric is one new file in this folder that calls `METRICS.add(name, Metric(...))`; nothing else has to name it.
Its `measure` gets a `Context` (context.py): the rows, the settings, and the shared quantities, each computed when first
asked for. That of a metric over several parts gets `Parts` (parts.py). Both rest on judges, of which nothing is known
here, so that each of them may use what is defined here.

What a metric returns: a number with its interval, or the plain statement that there is none.

The numbers of one part of one model, and the form in which files have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from relearn.core.registry import Registry
from relearn.metrics.answer_row import AnswerRow


@dataclass(frozen=True)
class Measurement:
    """`value` is None when nothing could be scored: a missing score is not zero.

    `n` counts the scored items, `unscored` those that could not be scored and `why`, in words; `per_record` keeps each
    item's value (None = unscored). `low`, `high`: bootstrap 95 % interval, for which `clusters` subjects were drawn.
    `note` says what the number rests on. Where every question was asked `repeats` times, values are means over the
    repeats and `seed_sd` is the standard deviation of the repeats' own values (n - 1 below). `groups`: the same for the
    items of one kind each (a probe's level, its attack), by name.
    """

    value: float | None
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
        """How many items the value leaves out, and why; empty when it leaves out none."""
        if not self.unscored:
            return ""
        return f"{self.unscored} of {self.n + self.unscored} unscored: {self.why or 'could not be measured'}"

    def to_dict(self, *, per_record: bool = False) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "unscored": self.unscored,
        }
        if self.clusters is not None:
            summary["clusters"] = self.clusters
        if self.repeats > 1:
            summary |= {"repeats": self.repeats, "seed_sd": self.seed_sd}
        if self.groups:
            summary["groups"] = {name: found.to_dict() for name, found in self.groups.items()}
        if self.missing:
            summary["missing"] = self.missing
        if self.note:
            summary["note"] = self.note
        if per_record:
            summary["per_record"] = dict(self.per_record)
        return summary


# Rows of "holdout" are of the forget set's kind, but never trained on; only metrics that need "reference" are theirs.
Split = Literal["forget", "retain", "holdout"]
Better = Literal["higher", "lower", "closer"]
Need = Literal["entities", "entailment", "logprobs", "reference", "judge"]


@dataclass(frozen=True)
class Metric:
    """`better` names the splits the metric applies to and, for each, the direction that is an improvement.

    `needs` says what must be at hand beside the rows; a metric whose needs are not met is unscored, with a note.
    Those that need a "judge" are left out where none is named, unless asked for by name.
    "reference": it rests on what the model thinks of the reference alone and not on its answer.
    `applies` (rows of a part, rows of all parts) says whether a part has rows of the kind it is about; where it has
    none, the metric is left out, unless it is asked for by name. None: every row is of that kind.
    """

    name: str
    title: str
    source: str
    better: Mapping[Split, Better]
    measure: Callable[[Any], Measurement]
    needs: tuple[Need, ...] = ()
    applies: Callable[[Sequence[AnswerRow], Sequence[AnswerRow]], bool] | None = None


@dataclass(frozen=True)
class JointMetric:
    """A metric that needs several parts of a run at once, or another run; its number stands under `part`.

    `measure` gives None where the parts are not what it is about, an unscored `Measurement` where something it needs of
    them is missing. `better` is as in `Metric`, for the split of that part; "closer" means closer to `ideal`.
    """

    name: str
    title: str
    source: str
    part: str
    better: Mapping[Split, Better]
    measure: Callable[[Any], Measurement | None]
    ideal: float = 0.0
    needs: tuple[Need, ...] = ()


# Measures of ability tasks of which less is better.
_LOWER = ("perplexity", "bits_per_byte", "brier_score", "ter")


def direction_of(name: str, split: str) -> Better | None:
    """Which way a metric, or an ability task's measure ("TASK/MEASURE"), gets better on a split; None where unknown."""
    if name in METRICS:
        return dict(METRICS.get(name).better).get(split)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if "/" not in name:
        return None
    return "lower" if name.rpartition("/")[2].partition(" ")[0].endswith(_LOWER) else "higher"


METRICS: Registry[Metric | JointMetric] = Registry("metric", "relearn.metrics")


@dataclass(frozen=True)
class SplitScores:
    """`measurements` by metric name; `items` by row id: what KFR or KRR rests on, empty when not asked for.

    `split`: what the part was scored as; `subjects`: whom each row is about, by id.
    """

    measurements: Mapping[str, Measurement]
    items: Mapping[str, Mapping[str, Any]]
    split: Split | Literal["overall"] = "overall"
    subjects: Mapping[str, str | None] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Values, intervals and counts, free of texts."""
        return {name: measured.to_dict() for name, measured in self.measurements.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything, each item's value and entities included."""
        measured = {name: value.to_dict(per_record=True) for name, value in self.measurements.items()}
        return {"metrics": measured, "items": {key: dict(item) for key, item in self.items.items()}}


def summary(parts: Mapping[str, SplitScores]) -> dict[str, Any]:
    """`parts` (forget, retain, forget_heldout, ..., overall) of one model as summary.json has them."""
    return {part: measured.summary() for part, measured in parts.items()}


def scores(parts: Mapping[str, SplitScores]) -> dict[str, Any]:
    """`parts` of one model as scores.json has them, with the value and the evidence of each item."""
    return {part: measured.to_dict() for part, measured in parts.items()}
