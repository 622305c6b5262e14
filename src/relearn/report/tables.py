"""What a run shows on the screen at its end: the numbers before and after, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from relearn import console
from relearn.report.wording import MISSING, PARTS, better, change, in_order, interval, metric_label, number
from relearn.rundir import read_json

SHOWN = ("kfr", "krr", "rouge_l", "ls", "ls_paper", "gibberish", "ppl")
_STYLES = {"better": "green", "worse": "red", "same": ""}


def print_summary(run: Path) -> None:
    """Print the table of a run folder's summary.json."""
    console.out.print(summary_table(read_json(Path(run) / "summary.json")))


def summary_table(summary: Mapping[str, Any], title: str | None = None) -> Table:
    """The table for the content of summary.json. Green and red only where the two intervals lie apart."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("95 % interval", style="dim")
    table.add_column("")
    for part, (split, _, part_title) in PARTS.items():
        before, after = ((summary.get(side) or {}).get(part) or {} for side in ("before", "after"))
        names = [name for name in in_order({*before, *after}) if name in SHOWN]
        if not names:
            continue
        if table.row_count:
            table.add_row()
        table.add_row(Text(f"{part_title} ({_asked(after or before)})", style="bold"))
        for name in names:
            table.add_row(*_cells(name, split, before.get(name), after.get(name)))
    return table


def _asked(measured: Mapping[str, Any]) -> int:
    return max(entry["n"] + entry["unscored"] for entry in measured.values())


def _cells(
    name: str, split: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> tuple[Text | str, ...]:
    direction = better(name, split)
    arrow = {"higher": "↑", "lower": "↓", None: " "}[direction]
    style = _STYLES.get(change(before, after, direction), "")
    unscored = (after or {}).get("unscored")
    return (
        Text(f"  {metric_label(name)} {arrow}"),
        _value(before),
        Text(_value(after), style=style),
        interval(after),
        Text(f"{unscored} not judged", style="yellow") if unscored else "",
    )


def _value(measured: Mapping[str, Any] | None) -> str:
    return number(measured["value"]) if measured else MISSING
