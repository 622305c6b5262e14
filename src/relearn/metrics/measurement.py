"""What a metric returns: a number with its interval, or the plain statement that there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """`value` is None when nothing could be scored: a missing score is not zero.

    `n` counts the scored items, `unscored` those that could not be scored, `per_record` keeps each item's value (None =
    unscored). `low`, `high`: bootstrap 95 % interval. `note` says in words what the number rests on.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unscored: int = 0
    per_record: Mapping[str, float | None] = field(default_factory=dict)
    note: str = ""

    def to_dict(self, *, per_record: bool = False) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "value": self.value, "low": self.low, "high": self.high, "n": self.n, "unscored": self.unscored,
        }  # fmt: skip
        if self.note:
            summary["note"] = self.note
        if per_record:
            summary["per_record"] = dict(self.per_record)
        return summary
