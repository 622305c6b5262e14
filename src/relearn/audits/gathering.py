"""What attacks that look inside a model make numbers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relearn.core.config import Metrics
from relearn.data import Record
from relearn.metrics.intervals import mean_interval
from relearn.metrics.judges import Judges
from relearn.metrics.measurement import Measurement


@dataclass(frozen=True)
class Gathering:
    """What numbers are made with: the facts, settings of metrics (bootstrap, min_k), judges, the seed."""

    facts: Sequence[Record]
    settings: Metrics
    judges: Judges
    seed: int

    def mean(self, values: Mapping[str, float | None], note: str = "") -> Measurement:
        """The mean over facts with a bootstrap interval over subjects; facts without a value are unscored."""
        subjects = {record.id: record.subject for record in self.facts}
        known = {key: value for key, value in values.items() if value is not None}
        unscored = len(values) - len(known)
        if not known:
            return Measurement(None, unscored=unscored, per_record=values, why="could not be read", note=note)
        value, low, high = mean_interval(
            list(known.values()), clusters=[subjects.get(key) for key in known], resamples=self.settings.bootstrap,
            seed=self.seed,
        )  # fmt: skip
        why = "could not be read" if unscored else ""
        return Measurement(value, low, high, len(known), unscored, values, note, why)
