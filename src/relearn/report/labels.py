"""Format titles, labels and numbers for the report page, the model card, the browser interface and the terminal.

Labels and order of metrics come from the registry METRICS. `print_summary` prints the metrics table of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from relearn.core import console
from relearn.core.run_dir import RunFolder
from relearn.core.splits import REPORTED_SPLITS
from relearn.metrics.metric import LAST, METRICS, direction_of
from relearn.report.sections import read_audits

# Part of summary.json -> (split, answer file, title).
PARTS: dict[str, tuple[str, str, str]] = {
    **{key: (split.scored_as, split.name, split.label) for key, split in REPORTED_SPLITS.items()},
    "ability": ("retain", "ability", "General ability"),
    # Metrics over several parts; there is no answer file.
    "overall": ("retain", "overall", "All parts together"),
}
SPLITS = {"forget": "What was to be forgotten", "retain": "What was to be kept"}

LOSS_PARTS = {
    "gdf": "new answers (GDF)",
    "gdr": "rows to keep (GDR)",
    "klr": "KL to the start model on rows to keep (KLR)",
}
ROW_KINDS = {
    "qa": "a question and its new answer",
    "completion": "the beginning of a new answer and its rest",
    "generic": "a general question and its answer",
}
VERDICTS: dict[str, str] = {
    "known": "still known",
    "lost": "lost",
    "forgotten": "forgotten",
    "kept": "kept",
    "never": "not known before",
    "unscored": "not judged",
}
# Without answers from before unlearning, it is unknown whether a fact was forgotten or lost.
VERDICTS_ALONE: dict[str, str] = {**VERDICTS, "forgotten": "not given away", "lost": "not given", "kept": "given"}
MISSING = "–"


def in_order(names: Iterable[str]) -> list[str]:
    """Sort metrics by their order in the tables; metrics without an order or not registered follow, by name."""
    return sorted(names, key=lambda name: (METRICS.get(name).order if name in METRICS else LAST, name))


def metric_label(name: str) -> str:
    """Return the short label for tables and charts (KFR, ROUGE-L, LS); the name itself if it is not registered."""
    return METRICS.get(name).label if name in METRICS else name


def metric_description(name: str) -> str:
    """Return the description of a metric; the name itself if it is not registered."""
    return METRICS.get(name).description if name in METRICS else name


def in_summary(name: str) -> bool:
    """Return whether the terminal and the browser interface show the metric."""
    return name in METRICS and "summary" in METRICS.get(name).shown_in


def part_title(part: str, trained: bool = True) -> str:
    """Return the title of a part; `trained`: whether a model was trained on its questions."""
    title = PARTS[part][2]
    return title if trained else title.removesuffix(", trained questions")


def number(value: float | None) -> str:
    """Format a number: three decimals below 10, fewer above, exponent from 1e6 and below 1e-4 (0.953, 12.3, 1,744)."""
    if value is None:
        return MISSING
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-4:
        return f"{value:.2e}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Format a share in whole percent; one decimal if it would round to 0 % or 100 % without being 0 or 1."""
    if value is None:
        return MISSING
    whole = f"{100 * value:.0f}"
    exact = {0.0: "0", 1.0: "100"}.get(value)
    return f"{100 * value:.1f} %" if exact is None and whole in ("0", "100") else f"{whole} %"


def interval(measured: Mapping[str, Any] | None) -> str:
    if not measured or measured.get("low") is None or measured.get("high") is None:
        return ""
    return f"{number(measured['low'])} to {number(measured['high'])}"


def change(
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    direction: str | None,
    difference: Mapping[str, Any] | None = None,
) -> str:
    """Classify a change as "better", "worse" or "same"; "" if it cannot be decided.

    "same": the interval of the paired `difference` contains 0, or, without a paired difference, the two intervals
    overlap.
    """
    if direction not in ("higher", "lower"):
        return ""
    if difference and difference.get("low") is not None:
        if difference["low"] <= 0 <= difference["high"]:
            return "same"
        return "better" if (difference["value"] > 0) == (direction == "higher") else "worse"
    if not before or not after or before.get("value") is None or after.get("value") is None:
        return ""
    if _overlap(before, after):
        return "same"
    return "better" if (after["value"] > before["value"]) == (direction == "higher") else "worse"


def signed(value: float | None) -> str:
    """Format a difference with its sign: +0.833, -12.3, 0.000."""
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def chance(difference: Mapping[str, Any] | None) -> str:
    """Format the p-value of the sign test: p = 0.031, p < 0.001; "" if there is none."""
    p = (difference or {}).get("p")
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    bounds = [(m["value"] if m.get(k) is None else m[k]) for m in (one, other) for k in ("low", "high")]
    return bounds[0] <= bounds[3] and bounds[2] <= bounds[1]


def counted(number_of: int, thing: str) -> str:
    """Format a count with its noun: 1 answer, 1,200 answers."""
    return f"{number_of:,} {thing}{'' if number_of == 1 else 's'}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


_STYLES = {"better": "green", "worse": "red", "same": ""}


def print_summary(run: Path) -> None:
    """Print the metrics table from summary.json of a run or evaluation, and the finding of the audit of a run."""
    folder = RunFolder(run)
    console.out.print(summary_table(folder.summary, trained=not folder.is_evaluation))
    if audits := read_audits(folder.path):
        console.note(audits["finding"])
    elif not folder.is_evaluation:
        console.note(f"not attacked yet: relearn audit {run} tries to bring the facts back")


def summary_table(summary: Mapping[str, Any], title: str | None = None, *, trained: bool = True) -> Group:
    """Build one table per part from the content of summary.json.

    Values are green or red if the interval of the paired difference excludes 0, or, without a paired difference, if the
    two intervals do not overlap.
    """
    paired = bool(summary.get("difference"))
    shown: list[Text | Table] = [Text(title, style="italic")] if title else []
    for part, (split, _, _) in PARTS.items():
        sides = [(summary.get(side) or {}).get(part) or {} for side in ("before", "after", "difference")]
        names = [name for name in in_order({*sides[0], *sides[1]}) if in_summary(name)]
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
    """Make an empty table whose columns have the same widths in all parts and fit 80 characters."""
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
    table: Table,
    name: str,
    split: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    difference: Mapping[str, Any] | None,
) -> None:
    direction = direction_of(name, split)
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
