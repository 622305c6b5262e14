"""The numbers of one part of one model, and the form in which files have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import Split


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
