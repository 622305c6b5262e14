"""What a comparison leaves to be read and committed: one JSON file per method, the table, the plane, some answers.

Everything is worked out from run folders and is written only where it changed. The result files of other methods in the
same folder stay in the table, so methods may be run one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relearn.compare import against
from relearn.compare.runs import training_log
from relearn.compare.settings import RETAIN_ONLY
from relearn.compare.tables import table
from relearn.errors import InputError
from relearn.metrics.answers import asked_first
from relearn.records.sample import evenly
from relearn.report.plane import Point, plane, standalone
from relearn.report.wording import PARTS
from relearn.rundir import RunDir, is_leftover, read_json, read_jsonl, refuse_overwrite, write_text

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
    """  # fmt: skip
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
    written = [*results, *(folder / name for name in (TABLE, PLANE, SAMPLES, SAMPLES_TEXT, against.FILE))]
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
    path = folder / against.FILE
    rows = against.updated(read_jsonl(path) if path.exists() else (), methods, runs)
    if rows:
        _write(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))
    return against.of_table(rows, methods)


def point(value: Mapping[str, Any]) -> Point:
    """Where a result stands in the plane: held-out questions where there are any."""
    forget, retain = (measured(value, split) for split in ("forget", "retain"))
    fluency = [part["ls"]["value"] for part in (forget, retain) if part["ls"]["value"] is not None]
    return Point(
        value["method"], forget["kfr"]["value"], retain["krr"]["value"],
        sum(fluency) / len(fluency) if fluency else None, _range(forget["kfr"]), _range(retain["krr"]),
        ceiling=value["method"] == RETAIN_ONLY,
    )  # fmt: skip


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
        "id": row["id"], "part": part, "question": row["question"], "reference": row["reference"],
        "before": before.get(row["id"]), "after": {},
    }  # fmt: skip


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
