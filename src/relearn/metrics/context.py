"""What a metric of one part measures: its rows, and what several metrics need of them, computed once for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from relearn.core import config
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.entity_coverage import Coverage, coverages
from relearn.metrics.intervals import Clusters, group, mean_interval
from relearn.metrics.judges import Judges
from relearn.metrics.lexical_indices import Language, language_of
from relearn.metrics.metric import Measurement, Split
from relearn.metrics.nli import Verdict, verdicts


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
        return coverages(self.rows, self.judges)

    @cached_property
    def verdicts(self) -> list[Verdict | None]:
        """Entailment of every row in the direction of the split; None without a judge or for an empty answer."""
        return verdicts(self.rows, self.split, self.judges.entailment)

    @cached_property
    def language(self) -> list[Language]:
        """Token counts, vocabulary and perplexity of every response."""
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
            clusters=clusters.codes.tolist(),
            resamples=self.settings.bootstrap,
            seed=self.seed,
        )
        note = "; ".join(filter(None, (note, clusters.note)))
        return Measurement(value, low, high, len(scored), left_out, per_record, note, why, clusters.count)

    def in_order(self, places: Iterable[int]) -> list[int]:
        """Places of rows sorted by the rows' ids, so that the order of a file changes no interval."""
        return sorted(places, key=lambda at: self.rows[at].id)

    def clusters(self, places: Sequence[int]) -> Clusters:
        """The subjects of these rows, which bootstrap intervals draw; a row without a subject stands for itself."""
        return group([self.rows[at].subject for at in places], len(places))
