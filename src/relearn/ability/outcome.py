"""The number of one task and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from relearn.metrics.measurement import Measurement

# Half the width of a 95 % interval in standard errors.
WIDTH = 1.96


@dataclass(frozen=True)
class Outcome:
    """A task's score under `name`, "TASK/MEASURE".

    `stderr`: the standard error of the value, None where it cannot be told (one item, no estimate). `items`: the value
    of each question by its place in the task, None where it could not be scored. `by`: what computed it.
    """

    name: str
    value: float | None
    stderr: float | None
    n: int
    items: Mapping[str, float | None] = field(default_factory=dict)
    by: str = "relearn"
    note: str = ""

    @property
    def measurement(self) -> Measurement:
        """With value ± 1.96 standard errors as its interval, kept within 0 and 1 where every item is."""
        low, high = self._interval()
        note = "; ".join(filter(None, [self.note, f"by {self.by}", "interval: 1.96 standard errors" if low else ""]))
        left_out = sum(value is None for value in self.items.values())
        return Measurement(self.value, low, high, self.n, left_out, self.items, note)

    def _interval(self) -> tuple[float | None, float | None]:
        if self.value is None or self.stderr is None:
            return None, None
        low, high = self.value - WIDTH * self.stderr, self.value + WIDTH * self.stderr
        known = [value for value in self.items.values() if value is not None]
        if known and all(0 <= value <= 1 for value in known):
            low, high = max(0.0, low), min(1.0, high)
        return low, high

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name, "value": self.value, "stderr": self.stderr, "n": self.n, "by": self.by,
            "note": self.note, "items": dict(self.items),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Outcome:
        return cls(**values)


def averaged(name: str, items: Mapping[str, float | None], note: str = "") -> Outcome:
    """The mean of what could be scored, with the standard error of a mean."""
    known = [value for value in items.values() if value is not None]
    spread = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Outcome(name, fmean(known) if known else None, spread, len(known), items, note=note)
