"""What a metric returns: a number with its interval, or the plain statement that there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
            "value": self.value, "low": self.low, "high": self.high, "n": self.n, "unscored": self.unscored,
        }  # fmt: skip
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
