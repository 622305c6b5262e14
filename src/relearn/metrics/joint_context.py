"""All parts of one model side by side: what a metric sees that needs more than one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from relearn.core import config
from relearn.core.errors import InputError
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, JointMetric, Metric
from relearn.metrics.retain_reference import RetainReference


@dataclass(frozen=True)
class Parts:
    """`contexts` by the name of the part (forget, retain, ...); `reference`: a run that never saw the forget set.

    A metric of one part is measured when it is first asked for, and once.
    """

    contexts: Mapping[str, Context]
    settings: config.Metrics
    seed: int = 0
    reference: RetainReference | None = None
    _known: dict[tuple[str, str], Measurement] = field(default_factory=dict, repr=False)

    def rows(self, part: str) -> Sequence[AnswerRow]:
        return self.contexts[part].rows if part in self.contexts else ()

    def measured(self, part: str, name: str) -> Measurement:
        """The metric `name` of one part."""
        if (part, name) not in self._known:
            self._known[part, name] = split_metric(name).measure(self.contexts[part])
        return self._known[part, name]


def split_metric(name: str) -> Metric:
    """The metric of that name; raises InputError where it is one over several parts."""
    metric = METRICS.get(name)
    if isinstance(metric, JointMetric):
        raise InputError(f"metric {name!r} rests on several parts", way_out="score them together: score_parts")
    return metric
