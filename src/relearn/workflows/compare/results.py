"""What a comparison leaves to be read and committed: one JSON file per method, the table, the plane, some answers.

Everything is worked out from run folders and is written only where it changed. The result files of other methods in the
same folder stay in the table, so methods may be run one at a time.

The table of a comparison in Markdown: one row per method, every number with its interval.

Every method of a comparison against the first one of its table: the differences on the same questions.

Kept in differences.jsonl beside the results, since a result alone has no values of single answers: they are worked out
where both runs are at hand, and stay in the table when one of the two is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.run_dir import RunDir, is_leftover, read_json, read_jsonl, refuse_overwrite, write_text
from relearn.data.record import evenly
from relearn.metrics.answer_row import asked_first
from relearn.metrics.metric import Measurement
from relearn.metrics.paired import difference
from relearn.report.kfr_krr_plot import Point, plane, standalone
from relearn.report.labels import MISSING, PARTS, chance
from relearn.workflows.compare.comparison_config import RETAIN_ONLY
from relearn.workflows.compare.method_runs import training_log

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
            lines += _differences_tables(first["method"], differences or {}, parts, columns)
    return "\n".join([*lines, "## Training", "", *_training(results), ""])


def _asked(value: Mapping[str, Any], parts: Mapping[str, str]) -> str:
    counts = [
        f"{max(entry['n'] + entry['unscored'] for entry in value[part].values())} to {split}"
        for split, part in parts.items()
        if part in value
    ]
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


def _differences_tables(
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
        rows.append(
            [
                _name(value["method"]),
                MISSING if rate is None else f"{rate:g}",
                "<br>".join(tried) or MISSING,
                f"{value['steps']:,}",
                f"{value['tokens']:,}",
                MISSING if seconds is None else f"{seconds / 60:.1f}",
            ]
        )
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


FILE = "differences.jsonl"
METRICS = tuple(dict.fromkeys(name for _, name, _ in COLUMNS))


def updated(
    kept: Iterable[Mapping[str, Any]], methods: Sequence[str], runs: Mapping[str, RunDir]
) -> list[dict[str, Any]]:
    """The rows of differences.jsonl: those `kept` of these methods, worked out anew for runs that are here.

    A row: {"method", "against": the first of `methods`, "parts": part of summary.json -> metric -> difference}.
    """
    found = {row["method"]: dict(row) for row in kept}
    first = methods[0]
    for method in methods[1:] if first in runs else ():
        if method in runs:
            found[method] = {"method": method, "against": first, "parts": _between(runs[first], runs[method])}
    return [found[method] for method in sorted(found) if method in methods]


def _between(first: RunDir, other: RunDir) -> dict[str, Any]:
    """A comparison works the same tables out after every method; the files of a finished run do not change."""
    files = [run / "scores.json" for run in (first, other)]
    return _worked_out(first.path, other.path, *(file.stat().st_mtime_ns for file in files))


@lru_cache(maxsize=256)
def _worked_out(first: Path, other: Path, *written: int) -> dict[str, Any]:
    scores = [read_json(run / "scores.json")["after"] for run in (first, other)]
    recipe = Recipe.from_yaml(first / "recipe.yaml")
    found = {}
    for part, (split, file, _) in PARTS.items():
        if not all(part in side for side in scores):
            continue
        subjects = {row["id"]: row.get("subject") for row in read_jsonl(first / f"after/{file}.jsonl")}
        old, new = (side[part]["metrics"] for side in scores)
        of_part = {
            name: difference(
                name, split, _measurement(old[name]), _measurement(new[name]), subjects, recipe.metrics, recipe.seed
            )
            for name in METRICS
            if name in old and name in new
        }
        found[part] = {name: value.to_dict() for name, value in of_part.items() if value is not None}
    return found


def _measurement(kept: Mapping[str, Any]) -> Measurement:
    return Measurement(kept["value"], n=kept["n"], unscored=kept["unscored"], per_record=kept["per_record"])


def of_table(rows: Iterable[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """method -> part -> metric -> difference of the methods in a table that are against its first one, in its order."""
    found = {row["method"]: row["parts"] for row in rows if row["against"] == methods[0]}
    return {method: found[method] for method in methods[1:] if method in found}


ANSWERS = 10
TABLE, PLANE, SAMPLES, SAMPLES_TEXT = "table.md", "plane.svg", "samples.jsonl", "samples.md"


def result(
    benchmark: str,
    method: str,
    recipe: Mapping[str, Any],
    folder: RunDir,
    *,
    chosen: Mapping[str, Any],
    trained: RunDir | None = None,
    stage: str = "unlearn",
) -> dict[str, Any]:
    """The content of METHOD.json: `forget`, `retain` and their held-out parts as in summary.json, after unlearning;
    `before` has the same of the start model. `trained` is the folder with the training's log if it is another one.
    """
    summary = read_json(folder / "summary.json")
    manifest = folder.manifest
    return {
        "method": method,
        "benchmark": benchmark,
        "model": recipe["model"]["name"],
        **summary["after"],
        "before": summary["before"],
        "chosen": dict(chosen),
        **training_log(trained or folder, stage),
        "synthesis": _counts(manifest) if recipe["unlearn"]["method"] == "relearn" and method != RETAIN_ONLY else None,
        "versions": manifest.get("versions", {}),
        "recipe": dict(recipe),
    }


def _counts(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    counts = manifest.get("synthesis")
    return counts and {key: value for key, value in counts.items() if key not in ("usage", "notes")}


def check_results(folder: Path, methods: Sequence[str], inputs: Iterable[Path | str]) -> None:
    """Raises InputError for a folder that holds something else than results, or where an input would be written over.

    Results are known by what they say, since they are committed without a manifest.
    """
    found = [path for path in folder.iterdir() if not is_leftover(path.name)] if folder.is_dir() else []
    ours = [path for path in found if path.suffix == ".json" and _is_result(path)]
    if (found and not ours) or (folder.exists() and not folder.is_dir()):
        raise InputError("is not empty and holds no results", where=str(folder), way_out="choose another --results")
    results = [folder / f"{method}.json" for method in methods]
    written = [*results, *(folder / name for name in (TABLE, PLANE, SAMPLES, SAMPLES_TEXT, FILE))]
    for path in written:
        if path.is_symlink() or (path in results and path.exists() and path not in ours):
            raise InputError("is no result of relearn", where=str(path), way_out="choose another --results")
    refuse_overwrite(written, inputs)


def _is_result(path: Path) -> bool:
    try:
        found = read_json(path)
    except (InputError, OSError):
        return False
    return isinstance(found, dict) and found.get("method") == path.stem and "benchmark" in found


def write_result(folder: Path, value: Mapping[str, Any]) -> None:
    _write(folder / f"{value['method']}.json", json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_results(folder: Path, order: Sequence[str]) -> list[dict[str, Any]]:
    """The results in a folder: those of `order` first, others by name, the ceiling last."""
    found = {value["method"]: value for path in sorted(folder.glob("*.json")) if "method" in (value := read_json(path))}
    names = [*(name for name in order if name in found), *(name for name in found if name not in order)]
    return [found[name] for name in sorted(names, key=lambda name: name == RETAIN_ONLY)]


def write_overview(folder: Path, order: Sequence[str], runs: Mapping[str, RunDir]) -> None:
    """table.md, differences.jsonl, plane.svg and samples, from the results in `folder` and the answers in `runs`."""
    results = read_results(folder, order)
    if not results:
        return
    differences = _differences(folder, [value["method"] for value in results], runs)
    _write(folder / TABLE, table(results, differences))
    _write(folder / PLANE, standalone(plane([point(value) for value in results], "plane", results[0]["benchmark"])))
    rows = _samples(folder, [value["method"] for value in results], runs)
    if rows:
        _write(folder / SAMPLES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        _write(folder / SAMPLES_TEXT, _samples_text(rows))


def _differences(folder: Path, methods: Sequence[str], runs: Mapping[str, RunDir]) -> dict[str, Any]:
    """Each method against the first, where that is known; what is known from other calls is kept."""
    path = folder / FILE
    rows = updated(read_jsonl(path) if path.exists() else (), methods, runs)
    if rows:
        _write(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))
    return of_table(rows, methods)


def point(value: Mapping[str, Any]) -> Point:
    """Where a result stands in the plane: held-out questions where there are any."""
    forget, retain = (measured(value, split) for split in ("forget", "retain"))
    fluency = [part["ls"]["value"] for part in (forget, retain) if part["ls"]["value"] is not None]
    return Point(
        value["method"],
        forget["kfr"]["value"],
        retain["krr"]["value"],
        sum(fluency) / len(fluency) if fluency else None,
        _range(forget["kfr"]),
        _range(retain["krr"]),
        ceiling=value["method"] == RETAIN_ONLY,
    )


def _range(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if entry["low"] is None else (entry["low"], entry["high"])


def measured(value: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    return value.get(f"{split}_heldout") or value[split]


def _samples(folder: Path, methods: Sequence[str], runs: Mapping[str, RunDir]) -> list[dict[str, Any]]:
    """Ten questions of either side, spread evenly over the file, with the answers of every method that was run here;
    answers of methods run elsewhere are kept."""
    kept = {row["id"]: row for row in read_jsonl(folder / SAMPLES)} if (folder / SAMPLES).exists() else {}
    rows: dict[str, dict[str, Any]] = {}
    for method, run in runs.items():
        for part in _parts(run):
            for row in evenly(asked_first(read_jsonl(run / f"after/{part}.jsonl")), ANSWERS):
                shown = rows.setdefault(row["id"], _question(run, part, row))
                shown["after"][method] = row["response"]
    for key, row in rows.items():
        said = {**kept.get(key, {}).get("after", {}), **row["after"]}
        row["after"] = {method: said[method] for method in methods if method in said}
    return list(rows.values())


def _parts(run: RunDir) -> list[str]:
    """Held-out questions of either side, else trained ones."""
    files = {part: file for part, (_, file, _) in PARTS.items()}
    pairs = (("forget_heldout", "forget"), ("retain_heldout", "retain"))
    choices = [[files[part] for part in pair if (run / f"after/{files[part]}.jsonl").exists()] for pair in pairs]
    return [choice[0] for choice in choices if choice]


def _question(run: RunDir, part: str, row: Mapping[str, Any]) -> dict[str, Any]:
    before = {entry["id"]: entry["response"] for entry in asked_first(read_jsonl(run / f"before/{part}.jsonl"))}
    return {
        "id": row["id"],
        "part": part,
        "question": row["question"],
        "reference": row["reference"],
        "before": before.get(row["id"]),
        "after": {},
    }


def _samples_text(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["# Ten answers of each, before and after", ""]
    titles = {file: title for _, file, title in PARTS.values()}
    part = None
    for row in rows:
        if row["part"] != part:
            part = row["part"]
            lines += [f"## {titles[part]}", ""]
        lines += [f"### {_line(row['question'])}", "", f"- **reference** {_line(row['reference'])}"]
        lines += [f"- **before** {_line(row['before'])}"]
        lines += [f"- **{method}** {_line(text)}" for method, text in row["after"].items()]
        lines.append("")
    return "\n".join(lines)


def _line(text: str | None) -> str:
    shown = " ".join((text or "").split()) or "(empty)"
    for character in "\\`*_<>[]#|":
        shown = shown.replace(character, f"\\{character}")
    return shown


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
        path.chmod(0o644)
