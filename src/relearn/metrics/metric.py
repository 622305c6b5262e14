"""What a metric is, and where it is registered.

A new metric is one new file in this folder that calls `METRICS.add(name, Metric(...))`; nothing else has to name it.
Its `measure` gets a `Context` (context.py): the rows, the settings, and the shared quantities, each computed when first
asked for. That of a metric over several parts gets `Parts` (parts.py). Both rest on judges, of which nothing is known
here, so that each of them may use what is defined here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from relearn.core.registry import Registry
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.measurement import Measurement

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
