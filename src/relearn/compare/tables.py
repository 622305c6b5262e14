"""The table of a comparison in Markdown: one row per method, every number with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relearn.report.labels import MISSING, chance
from relearn.workflows.compare.comparison_config import RETAIN_ONLY

COLUMNS = (
    ("forget", "kfr", "KFR"),
    ("retain", "krr", "KRR"),
    ("forget", "useful_forgetting", "Useful forgetting"),
    ("forget", "invented", "Invented forget"),
    ("forget", "rouge_l", "ROUGE-L forget"),
    ("retain", "rouge_l", "ROUGE-L retain"),
    ("forget", "gibberish", "Gibberish forget"),
    ("retain", "gibberish", "Gibberish retain"),
    ("forget", "ls", "LS forget"),
    ("retain", "ls", "LS retain"),
)


def table(results: Sequence[Mapping[str, Any]], differences: Mapping[str, Any] | None = None) -> str:
    """table.md: held-out questions first where there are any, then the trained ones, then how each was trained.

    `differences`: method -> part -> metric -> the paired difference to the first method, which follow each table.
    """
    first = results[0]
    lines = [
        f"# {first['benchmark']}: methods side by side",
        "",
        f"Model: {first['model']}. In brackets 95 % intervals.",
        "",
    ]
    for held_out, title in ((True, "Questions that no training showed"), (False, "Trained questions")):
        parts = {split: f"{split}_heldout" if held_out else split for split in ("forget", "retain")}
        columns = [column for column in COLUMNS if parts[column[0]] in first]
        if columns:
            lines += [f"## {title}", "", _asked(first, parts), "", *_scores(results, parts, columns), ""]
            lines += _differences(first["method"], differences or {}, parts, columns)
    return "\n".join([*lines, "## Training", "", *_training(results), ""])


def _asked(value: Mapping[str, Any], parts: Mapping[str, str]) -> str:
    counts = [
        f"{max(entry['n'] + entry['unscored'] for entry in value[part].values())} to {split}"
        for split, part in parts.items() if part in value
    ]  # fmt: skip
    return f"{', '.join(counts)}. LS ÷ start: LS on retain questions over that of the start model."


def _scores(
    results: Sequence[Mapping[str, Any]], parts: Mapping[str, str], columns: Sequence[tuple[str, str, str]]
) -> list[str]:
    head = ["method", *(title for _, _, title in columns)]
    rows = [
        ["start model", *(_cell(results[0]["before"].get(parts[split], {}).get(name)) for split, name, _ in columns)]
    ]
    rows += [
        [_name(value["method"]), *(_cell(value.get(parts[split], {}).get(name)) for split, name, _ in columns)]
        for value in results
    ]
    if parts["retain"] in results[0]:
        head.append("LS ÷ start")
        ratios = [_number(ls_ratio(value, parts["retain"])) for value in results]
        rows = [[*row, ratio] for row, ratio in zip(rows, ["1.00", *ratios], strict=True)]
    return _markdown(head, rows)


def _differences(
    first: str, differences: Mapping[str, Any], parts: Mapping[str, str], columns: Sequence[tuple[str, str, str]]
) -> list[str]:
    """Less the first method, question by question."""
    shown = {method: found for method, found in differences.items() if any(part in found for part in parts.values())}
    if not shown:
        return []
    said = f"Less {first}, on the same questions; in brackets 95 % intervals; p is a sign test by subject."
    rows = [
        [_name(method), *(_change(found.get(parts[split], {}).get(name)) for split, name, _ in columns)]
        for method, found in shown.items()
    ]
    return [said, "", *_markdown(["method", *(title for _, _, title in columns)], rows), ""]


def _change(entry: Mapping[str, Any] | None) -> str:
    if not entry or entry["value"] is None:
        return MISSING
    if entry["low"] is None:
        return f"{entry['value']:+.2f}"
    left_out = f", {entry['unpaired']} left out" if entry["unpaired"] else ""
    return f"{entry['value']:+.2f} [{entry['low']:+.2f}, {entry['high']:+.2f}], {chance(entry)}{left_out}"


def ls_ratio(value: Mapping[str, Any], part: str) -> float | None:
    """Linguistic score (mean per answer) over that of the start model on the same questions."""
    after = value.get(part, {}).get("ls", {}).get("value")
    before = value["before"].get(part, {}).get("ls", {}).get("value")
    return after / before if after is not None and before else None


def _training(results: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["method", "learning rate", "tried (KFR, KRR, LS ÷ start: score)", "steps", "tokens", "minutes"]
    rows = []
    for value in results:
        chosen = value["chosen"]
        tried = [_tried(entry) for entry in chosen.get("grid", [])]
        rate = chosen.get("learning_rate")
        seconds = value.get("seconds")
        rows.append([
            _name(value["method"]), MISSING if rate is None else f"{rate:g}", "<br>".join(tried) or MISSING,
            f"{value['steps']:,}", f"{value['tokens']:,}", MISSING if seconds is None else f"{seconds / 60:.1f}",
        ])  # fmt: skip
    return _markdown(head, rows)


def _tried(entry: Mapping[str, Any]) -> str:
    if entry.get("failed"):
        return f"{entry['learning_rate']:g}: failed"
    parts = ", ".join(_number(entry[name]) for name in ("kfr", "krr", "ls_ratio"))
    return f"{entry['learning_rate']:g} ({parts}: {_number(entry['score'])})"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in head[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def _name(method: str) -> str:
    return f"{method} (ceiling)" if method == RETAIN_ONLY else method


def _cell(entry: Mapping[str, Any] | None) -> str:
    if not entry or entry["value"] is None:
        return MISSING
    bounds = f" [{_number(entry['low'])}, {_number(entry['high'])}]" if entry["low"] is not None else ""
    unscored = f", {entry['unscored']} not judged" if entry["unscored"] else ""
    return f"{_number(entry['value'])}{bounds}{unscored}"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"
