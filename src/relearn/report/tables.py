"""What a run shows on the screen at its end: the numbers before and after, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from relearn.core import console
from relearn.core.run_dir import read_json
from relearn.report.labels import (
    MISSING,
    PARTS,
    better,
    chance,
    change,
    in_order,
    interval,
    metric_label,
    number,
    part_title,
    signed,
)

SHOWN = (
    "kfr", "worst_case", "krr", "rouge_l", "ls", "ls_paper", "gibberish", "useful_forgetting", "ppl", "forget_quality",
    "model_utility", "privleak",
)  # fmt: skip
_STYLES = {"better": "green", "worse": "red", "same": ""}


def print_summary(run: Path) -> None:
    """Print the table of a run folder's summary.json, or of an evaluation's."""
    trained = not (Path(run) / "evaluation.yaml").exists()
    console.out.print(summary_table(read_json(Path(run) / "summary.json"), trained=trained))


def summary_table(summary: Mapping[str, Any], title: str | None = None, *, trained: bool = True) -> Group:
    """The content of summary.json, a table for each part. Green and red only where the change is clear: the interval of
    the paired difference leaves out 0, or, where there is none, the two intervals lie apart.
    """
    paired = bool(summary.get("difference"))
    shown: list[Text | Table] = [Text(title, style="italic")] if title else []
    for part, (split, _, _) in PARTS.items():
        sides = [(summary.get(side) or {}).get(part) or {} for side in ("before", "after", "difference")]
        names = [name for name in in_order({*sides[0], *sides[1]}) if name in SHOWN]
        if not names:
            continue
        shown += [Text()] if shown else []
        shown.append(Text(f"{part_title(part, trained)} ({_asked(sides[1] or sides[0])})", style="bold"))
        table = _part_table(paired)
        for name in names:
            _add_rows(table, name, split, *(side.get(name) for side in sides))
        shown.append(table)
    return Group(*shown)


def _part_table(paired: bool) -> Table:
    """Columns of the same width in every part; with a paired difference all of them just fit eighty."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", min_width=14)
    table.add_column("before", justify="right", min_width=6)
    table.add_column("after", justify="right", min_width=6)
    table.add_column("95 % interval", style="dim", min_width=14)
    if paired:
        table.add_column("change", justify="right", min_width=6)
        table.add_column("95 % interval", style="dim", min_width=16)
        table.add_column("", style="dim", min_width=9)
    return table


def _asked(measured: Mapping[str, Any]) -> int:
    return max(entry["n"] + entry["unscored"] for entry in measured.values())


def _add_rows(
    table: Table, name: str, split: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None,
    difference: Mapping[str, Any] | None,
) -> None:  # fmt: skip
    direction = better(name, split)
    arrow = {"higher": "↑", "lower": "↓"}.get(direction or "", " ")
    style = _STYLES.get(change(before, after, direction, difference), "")
    cells = [Text(f"  {metric_label(name)} {arrow}"), _value(before), Text(_value(after), style=style), interval(after)]
    if difference:
        cells += [Text(signed(difference["value"]), style=style), interval(difference), chance(difference)]
    table.add_row(*cells)
    unscored = (after or {}).get("unscored")
    if unscored:
        table.add_row("", "", "", Text(f"{unscored} not judged", style="yellow"))


def _value(measured: Mapping[str, Any] | None) -> str:
    return number(measured["value"]) if measured else MISSING
