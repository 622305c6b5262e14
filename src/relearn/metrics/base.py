"""What a metric is, where it is registered, and what is computed once for all of them.

A new metric is one new file in this folder that calls `METRICS.add(name, Metric(...))`; nothing else has to name it.
Its `measure` gets a `Context`: the rows, the settings, and the shared quantities, each computed when first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from relearn import config
from relearn.metrics.answers import AnswerRow
from relearn.metrics.measurement import Measurement
from relearn.metrics.stats import mean_interval
from relearn.registry import Registry

if TYPE_CHECKING:
    from relearn.metrics.coverage import Coverage
    from relearn.metrics.entailment import Verdict
    from relearn.metrics.judges import Judges
    from relearn.metrics.linguistic import Language

Split = Literal["forget", "retain"]
Better = Literal["higher", "lower"]
Need = Literal["entities", "entailment", "logprobs"]


@dataclass(frozen=True)
class Metric:
    """`better` names the splits the metric applies to and, for each, the direction that is an improvement.

    `needs` says what must be at hand beside the rows; a metric whose needs are not met is unscored, with a note.
    """

    name: str
    title: str
    source: str
    better: Mapping[Split, Better]
    measure: Callable[[Context], Measurement]
    needs: tuple[Need, ...] = ()


METRICS: Registry[Metric] = Registry("metric", "relearn.metrics")


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

    def mean(self, values: Sequence[float | None], note: str = "") -> Measurement:
        """The mean over the scored items with its interval; None in `values` is an item that could not be scored."""
        return self.summarise(values, mean_interval, note)

    def summarise(
        self,
        values: Sequence[float | None],
        statistic: Callable[..., tuple[float, float, float]],
        note: str = "",
    ) -> Measurement:
        per_record = {row.id: value for row, value in zip(self.rows, values, strict=True)}
        scored = [value for value in values if value is not None]
        if not scored:
            return Measurement(None, n=0, unscored=len(values), per_record=per_record, note=note)
        value, low, high = statistic(scored, resamples=self.settings.bootstrap, seed=self.seed)
        return Measurement(value, low, high, len(scored), len(values) - len(scored), per_record, note)
