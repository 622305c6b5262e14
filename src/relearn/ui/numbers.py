"""The metrics of several runs side by side, in the report's words: what the page's table shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relearn.report.labels import ABOUT, PARTS, better, change, in_order, interval, metric_label, number, part_title
from relearn.report.tables import SHOWN

_ARROWS = {"higher": "↑", "lower": "↓"}
_NUMBERS = ("value", "low", "high", "n", "unscored")
_SIDES = ("before", "after", "difference")


def check_summary(summary: Any) -> Mapping[str, Any]:
    """The content of summary.json when every entry is a measurement; else raises TypeError or AttributeError."""
    for side in _SIDES:
        for measured in (summary.get(side) or {}).values():
            for entry in (measured or {}).values():
                if any(not isinstance(entry.get(name), int | float | None) for name in _NUMBERS):
                    raise TypeError("not a measurement")
    return summary


def table(summaries: Sequence[Mapping[str, Any]], trained: bool = True) -> list[dict[str, Any]]:
    """One entry per part that any run measured: its title, and a row per metric with a cell for each run."""
    parts = []
    for part, (split, _, _) in PARTS.items():
        sides = [[(summary.get(side) or {}).get(part) or {} for side in _SIDES] for summary in summaries]
        names = in_order({name for before, after, _ in sides for name in (*before, *after) if name in SHOWN})
        rows = [
            {
                "label": metric_label(name), "about": ABOUT.get(name, ""),
                "arrow": _ARROWS.get(better(name, split) or "", ""),
                "cells": [_cell(name, split, *(side.get(name) for side in of_run)) for of_run in sides],
            }
            for name in names
        ]  # fmt: skip
        if rows:
            parts.append({"title": part_title(part, trained), "rows": rows})
    return parts


def _cell(
    name: str, split: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None,
    difference: Mapping[str, Any] | None,
) -> dict[str, str]:  # fmt: skip
    """What was not measured is said to be so, never a number."""
    unscored = (after or {}).get("unscored")
    return {
        "before": _value(before), "after": _value(after), "interval": interval(after),
        "change": change(before, after, better(name, split), difference),
        "unscored": f"{unscored} not judged" if unscored else "",
        "measured": "" if after and after.get("value") is not None else "not measured",
    }  # fmt: skip


def _value(measured: Mapping[str, Any] | None) -> str:
    """Empty where the side was not measured."""
    return "" if not measured or measured.get("value") is None else number(measured["value"])
