"""Define the input of metrics: the answer rows of one part or of all parts, with values that several metrics share.

The shared values (entity coverage, entailment verdicts, word counts) are computed once, when they are first used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property, partial
from typing import Any, overload

from relearn.core import config
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.entity_coverage import Coverage, coverages
from relearn.metrics.intervals import Clusters, group, mean_interval, share_interval
from relearn.metrics.judges import Judges
from relearn.metrics.lexical_indices import LexicalCounts, lexical_counts
from relearn.metrics.metric import Measurement, Metric, ScoredSplit, split_metric
from relearn.metrics.nli import NLIVerdict, judge_answers
from relearn.metrics.retain_reference import RetainReference
from relearn.text.normal_forms import in_writing_of

# Why a row without an answer is unscored.
CUT_OFF = "cut off in the model's thoughts"


@dataclass(frozen=True)
class Context(Sequence[AnswerRow]):
    """Hold the answer rows of one split of one model, as a sequence, with settings and judges."""

    rows: Sequence[AnswerRow]
    _: KW_ONLY
    split: ScoredSplit
    settings: config.Metrics
    judges: Judges
    seed: int = 0

    @cached_property
    def answered(self) -> Context:
        """Return the context without the rows that have no answer (`cut_off`)."""
        rows = [row for row in self.rows if not row.cut_off]
        return self if len(rows) == len(self.rows) else replace(self, rows=rows)

    def measure(self, metric: Metric) -> Measurement:
        """Measure a metric; a row that has no answer is unscored, unless the metric does not read the answer."""
        context = self if "reference" in metric.needs else self.answered
        measured = metric.measure(context)
        assert measured is not None
        if not (missing := len(self) - len(context)):
            return measured
        cut = {row.id: None for row in self.rows if row.cut_off}
        why = "; ".join(filter(None, (f"{CUT_OFF} ({missing})", measured.why if measured.unscored else "")))
        return replace(
            measured, unscored=measured.unscored + missing, per_record={**measured.per_record, **cut}, why=why
        )

    @overload
    def __getitem__(self, index: int) -> AnswerRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AnswerRow]: ...
    def __getitem__(self, index: int | slice) -> AnswerRow | Sequence[AnswerRow]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def coverage(self) -> list[Coverage | None]:
        """Compute the entity coverage of every row; None if it could not be measured."""
        return coverages(self.rows, self.judges)

    @cached_property
    def verdicts(self) -> list[NLIVerdict | None]:
        """Compute the entailment verdict of every row; None without a judge or for an empty answer.

        The premise is the answer on the forget set (does the answer still entail the reference?), and the reference on
        the retain set (arXiv 2502.11190). Values of the answer that are equal to one of the reference are judged as the
        reference writes them, because a judge takes another writing for another value. `judge_answers` corrects the
        judge's contradictions.
        """
        judge = self.judges.entailment
        if judge is None:
            return [None] * len(self.rows)
        answered = [index for index, row in enumerate(self.rows) if row.response.strip()]
        rows = [self.rows[index] for index in answered]
        pairs = [(in_writing_of(row.reference, row.response), row.reference) for row in rows]
        if self.split == "retain":
            pairs = [(reference, response) for response, reference in pairs]
        is_open = [not coverage or not coverage.asked for coverage in map(self.coverage.__getitem__, answered)]
        verdicts = dict(zip(answered, judge_answers(judge, pairs, is_open), strict=True))
        return [verdicts.get(index) for index in range(len(self.rows))]

    @cached_property
    def lexical_counts(self) -> list[LexicalCounts]:
        """Count tokens and vocabulary, and compute the perplexity, of every response."""
        return [lexical_counts(row) for row in self.rows]

    def mean(self, values: Sequence[float | None], note: str = "", why: str = "") -> Measurement:
        """Compute the mean over the scored rows and its bootstrap interval.

        values: (rows,), None = unscored. why: the reason for None.
        """
        return self.summarise(values, mean_interval, note, why)

    def bounded_mean(
        self, values: Sequence[float | None], note: str = "", why: str = "", bounds: tuple[float, float] = (0.0, 1.0)
    ) -> Measurement:
        """Compute the mean like `mean`, with the interval of a share if every value is one of the `bounds`."""
        return self.summarise(values, partial(share_interval, bounds=bounds), note, why)

    def summarise(
        self,
        values: Sequence[float | None],
        statistic: Callable[..., tuple[float, float, float]],
        note: str = "",
        why: str = "",
    ) -> Measurement:
        """Compute a statistic over the scored rows and its interval, with a function of intervals.py."""
        per_record = {row.id: value for row, value in zip(self.rows, values, strict=True)}
        scored = self.sorted_by_id(index for index, value in enumerate(values) if value is not None)
        unscored = len(values) - len(scored)
        if not scored:
            return Measurement(None, unscored=unscored, per_record=per_record, note=note, why=why)
        clusters = self.clusters(scored)
        value, low, high = statistic(
            [values[index] for index in scored],
            clusters=clusters.codes.tolist(),
            resamples=self.settings.bootstrap,
            seed=self.seed,
        )
        note = "; ".join(filter(None, (note, clusters.note)))
        counts: dict[str, Any] = {"n": len(scored), "unscored": unscored, "clusters": clusters.count}
        return Measurement(value, low=low, high=high, per_record=per_record, note=note, why=why, **counts)

    def sorted_by_id(self, indices: Iterable[int]) -> list[int]:
        """Sort row indices by row id, so that the order of a file does not change an interval."""
        return sorted(indices, key=lambda index: self.rows[index].id)

    def clusters(self, indices: Sequence[int]) -> Clusters:
        """Group these rows by subject into bootstrap clusters; a row without a subject is its own cluster."""
        return group([self.rows[index].subject for index in indices], len(indices))


@dataclass(frozen=True)
class JointContext:
    """Hold the contexts of all parts (forget, retain, ...) of one model; `reference`: scores of a retain-only run."""

    contexts: Mapping[str, Context]
    _: KW_ONLY
    settings: config.Metrics
    seed: int = 0
    reference: RetainReference | None = None
    _measurements: dict[tuple[str, str], Measurement] = field(default_factory=dict, repr=False)

    def rows(self, part: str) -> Sequence[AnswerRow]:
        return self.contexts[part].rows if part in self.contexts else ()

    def measurement(self, part: str, name: str) -> Measurement:
        """Measure the metric `name` on one part, once. Raises InputError for a metric over several parts."""
        if (part, name) not in self._measurements:
            self._measurements[part, name] = self.contexts[part].measure(split_metric(name))
        return self._measurements[part, name]
