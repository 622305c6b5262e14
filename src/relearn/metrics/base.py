"""What a metric is, where it is registered, and what is computed once for all of them.

A new metric is one new file in this folder that calls `METRICS.add(name, Metric(...))`; nothing else has to name it.
Its `measure` gets a `Context`: the rows, the settings, and the shared quantities, each computed when first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from relearn import config
from relearn.metrics.answers import AnswerRow
from relearn.metrics.measurement import Measurement
from relearn.metrics.stats import Clusters, group, mean_interval
from relearn.registry import Registry

if TYPE_CHECKING:
    from relearn.metrics.coverage import Coverage
    from relearn.metrics.entailment import Verdict
    from relearn.metrics.judges import Judges
    from relearn.metrics.linguistic import Language
    from relearn.metrics.parts import Parts

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
    measure: Callable[[Context], Measurement]
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
    measure: Callable[[Parts], Measurement | None]
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
class Context:
    """The rows of one split of one model, and what several metrics need of them, computed at most once."""

    rows: Sequence[AnswerRow]
    split: Split
    settings: config.Metrics
    judges: Judges
    seed: int = 0

    @cached_property
    def coverage(self) -> list[Coverage | None]:
        """Entity coverage of every row; None where it could not be measured."""
        from relearn.metrics.coverage import coverages

        return coverages(self.rows, self.judges)

    @cached_property
    def verdicts(self) -> list[Verdict | None]:
        """Entailment of every row in the direction of the split; None without a judge or for an empty answer."""
        from relearn.metrics.entailment import verdicts

        return verdicts(self.rows, self.split, self.judges.entailment)

    @cached_property
    def language(self) -> list[Language]:
        """Token counts, vocabulary and perplexity of every response."""
        from relearn.metrics.linguistic import language_of

        return [language_of(row) for row in self.rows]

    def mean(self, values: Sequence[float | None], note: str = "", why: str = "") -> Measurement:
        """The mean over the scored items with its interval; None in `values` is an item that could not be scored."""
        return self.summarise(values, mean_interval, note, why)

    def summarise(
        self,
        values: Sequence[float | None],
        statistic: Callable[..., tuple[float, float, float]],
        note: str = "",
        why: str = "",
    ) -> Measurement:
        """`statistic` is mean_interval or median_interval; `why` says why items are None, in words."""
        per_record = {row.id: value for row, value in zip(self.rows, values, strict=True)}
        scored = self.in_order(at for at, value in enumerate(values) if value is not None)
        left_out = len(values) - len(scored)
        if not scored:
            return Measurement(None, unscored=left_out, per_record=per_record, note=note, why=why)
        clusters = self.clusters(scored)
        value, low, high = statistic(
            [values[at] for at in scored],
            clusters=clusters.codes.tolist(), resamples=self.settings.bootstrap, seed=self.seed,
        )  # fmt: skip
        note = "; ".join(filter(None, (note, clusters.note)))
        return Measurement(value, low, high, len(scored), left_out, per_record, note, why, clusters.count)

    def in_order(self, places: Iterable[int]) -> list[int]:
        """Places of rows sorted by the rows' ids, so that the order of a file changes no interval."""
        return sorted(places, key=lambda at: self.rows[at].id)

    def clusters(self, places: Sequence[int]) -> Clusters:
        """The subjects of these rows, which bootstrap intervals draw; a row without a subject stands for itself."""
        return group([self.rows[at].subject for at in places], len(places))
