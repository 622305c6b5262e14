"""Write the results of a comparison: a JSON file per method, table, differences, KFR-KRR plane, sample answers.

All files are computed from run folders and written only if they changed. Results of other methods in the same folder
stay in the table, so methods can be run one at a time. Differences to the first method need the answers of both runs;
differences.jsonl keeps computed differences, in case a run folder is later missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from relearn.core.errors import InputError
from relearn.core.files import read_json, write_text
from relearn.core.ownership import is_leftover, refuse_overwrite
from relearn.core.run_dir import SCORES, RunFolder
from relearn.core.splits import REPORTED_SPLITS, SPLITS
from relearn.data.record import evenly
from relearn.metrics.answer_row import asked_first
from relearn.metrics.metric import Measurement
from relearn.metrics.paired import difference
from relearn.report.kfr_krr_plot import Point, checkpoint_curves, checkpoints, plane, standalone
from relearn.report.labels import MISSING, chance
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
COMPARED = tuple(dict.fromkeys(name for _, name, _ in COLUMNS))
# Number of sample answers per split.
SAMPLES_PER_SPLIT = 10
TABLE, DIFFERENCES, PLANE = "table.md", "differences.jsonl", "plane.svg"
CHECKPOINTS = "checkpoints.svg"
SAMPLES, SAMPLES_TEXT = "samples.jsonl", "samples.md"


def result(
    benchmark: str,
    method: str,
    recipe: Mapping[str, Any],
    folder: RunFolder,
    *,
    chosen: Mapping[str, Any],
    trained: RunFolder | None = None,
    stage: str = "unlearn",
) -> dict[str, Any]:
    """Return the content of METHOD.json: the splits of summary.json after unlearning, and in `before` before it.

    `trained`: the folder with the training log, if it is not `folder`. `stage`: the stage that trained the model.
    """
    summary, manifest = folder.summary, folder.manifest
    return {
        "method": method,
        "benchmark": benchmark,
        "model": recipe["model"]["name"],
        **summary["after"],
        "before": summary["before"],
        "chosen": dict(chosen),
        **({"audit": audit} if (audit := _audited(folder)) else {}),
        **training_log(trained or folder, stage),
        **({"checkpoints": path} if (path := checkpoints((trained or folder).log_rows, stage)) else {}),
        "synthesis": _counts(manifest) if recipe["unlearn"]["method"] == "relearn" and method != RETAIN_ONLY else None,
        "versions": manifest.get("versions", {}),
        "recipe": dict(recipe),
    }


def _audited(folder: RunFolder) -> dict[str, Any]:
    """Return the strength of the audit, the worst case, and the share that each attack brings back; {} without one."""
    worst = folder.audit_worst_case
    back = {name: row["back"] for name, row in folder.audit_summary.items() if "back" in row}
    return {"strength": worst.get("strength"), "worst": worst["after"], "back": back} if worst else {}


def _counts(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    counts = manifest.get("synthesis")
    return counts and {key: value for key, value in counts.items() if key not in ("usage", "notes")}


def check_results(folder: Path, methods: Sequence[str], inputs: Iterable[Path | str]) -> None:
    """Raise InputError for a folder with other content than results, or if an input would be overwritten.

    Results are recognised by their content, because they are committed without a manifest.
    """
    files = [path for path in folder.iterdir() if not is_leftover(path.name)] if folder.is_dir() else []
    ours = [path for path in files if path.suffix == ".json" and _is_result(path)]
    if (files and not ours) or (folder.exists() and not folder.is_dir()):
        raise InputError("is not empty and holds no results", where=str(folder), way_out="choose another --results")
    results = [folder / f"{method}.json" for method in methods]
    written = [*results, *(folder / name for name in (TABLE, PLANE, CHECKPOINTS, SAMPLES, SAMPLES_TEXT, DIFFERENCES))]
    for path in written:
        if path.is_symlink() or (path in results and path.exists() and path not in ours):
            raise InputError("is no result of relearn", where=str(path), way_out="choose another --results")
    refuse_overwrite(written, inputs)


def _is_result(path: Path) -> bool:
    try:
        value = read_json(path)
    except (InputError, OSError):
        return False
    return isinstance(value, dict) and value.get("method") == path.stem and "benchmark" in value


def write_result(folder: Path, value: Mapping[str, Any]) -> None:
    _write(folder / f"{value['method']}.json", json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_results(folder: Path, order: Sequence[str]) -> list[dict[str, Any]]:
    """Read the results in a folder: methods in `order` first, then others by name, retain_only last."""
    values = map(read_json, sorted(folder.glob("*.json")))
    by_method = {value["method"]: value for value in values if "method" in value}
    names = [*(name for name in order if name in by_method), *(name for name in by_method if name not in order)]
    return [by_method[name] for name in sorted(names, key=lambda name: name == RETAIN_ONLY)]


def write_overview(folder: Path, order: Sequence[str], runs: Mapping[str, RunFolder]) -> None:
    """Write table, differences, plane and samples from the results in `folder` and the answers in `runs`."""
    results = read_results(folder, order)
    if not results:
        return
    methods = [value["method"] for value in results]
    _write(folder / TABLE, table(results, _write_differences(folder, methods, runs)))
    _write(folder / PLANE, standalone(plane([point(value) for value in results], "plane", results[0]["benchmark"])))
    curves = {value["method"]: value["checkpoints"] for value in results if "checkpoints" in value}
    if picture := standalone(checkpoint_curves(curves, "checkpoints", results[0]["benchmark"])):
        _write(folder / CHECKPOINTS, picture)
    rows = _samples(folder, methods, runs)
    if rows:
        _write(folder / SAMPLES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        _write(folder / SAMPLES_TEXT, _samples_text(rows))


def _write_differences(folder: Path, methods: Sequence[str], runs: Mapping[str, RunFolder]) -> dict[str, Any]:
    """Update differences.jsonl; return the differences of the methods to the first one."""
    rows = update_differences(RunFolder(folder).rows(DIFFERENCES), methods, runs)
    if rows:
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        _write(folder / DIFFERENCES, text)
    return differences_by_method(rows, methods)


def point(value: Mapping[str, Any]) -> Point:
    """Return the point of a result in the KFR-KRR plane, on held-out questions if there are any."""
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


def _samples(folder: Path, methods: Sequence[str], runs: Mapping[str, RunFolder]) -> list[dict[str, Any]]:
    """Return evenly spaced questions of the forget and retain sets with the answers of every method.

    Answers of methods without a run in `runs` are taken from the earlier samples in `folder`.
    """
    earlier = {row["id"]: row for row in RunFolder(folder).rows(SAMPLES)}
    rows: dict[str, dict[str, Any]] = {}
    for method, run in runs.items():
        for split in _sampled_splits(run):
            for row in evenly(asked_first(run.answers("after", split)), SAMPLES_PER_SPLIT):
                sample = rows.setdefault(row["id"], _question(run, split, row))
                sample["after"][method] = row["response"]
    for key, row in rows.items():
        answers = {**earlier.get(key, {}).get("after", {}), **row["after"]}
        row["after"] = {method: answers[method] for method in methods if method in answers}
    return list(rows.values())


def _sampled_splits(run: RunFolder) -> list[str]:
    """Return the held-out split of the forget and of the retain set, or the trained split if it has no answers."""
    pairs = (("probes_forget", "forget"), ("probes_retain", "retain"))
    choices = [[split for split in pair if run.answers_path("after", split).exists()] for pair in pairs]
    return [choice[0] for choice in choices if choice]


def _question(run: RunFolder, split: str, row: Mapping[str, Any]) -> dict[str, Any]:
    before = {entry["id"]: entry["response"] for entry in asked_first(run.answers("before", split))}
    copied = {"id": row["id"], "part": split, "question": row["question"], "reference": row["reference"]}
    return {**copied, "before": before.get(row["id"]), "after": {}}


def _samples_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the samples as Markdown."""
    lines = ["# Ten answers of each, before and after", ""]
    split = None
    for row in rows:
        if row["part"] != split:
            split = row["part"]
            lines += [f"## {SPLITS[split].label}", ""]
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


def update_differences(
    earlier: Iterable[Mapping[str, Any]], methods: Sequence[str], runs: Mapping[str, RunFolder]
) -> list[dict[str, Any]]:
    """Return the rows of differences.jsonl: `earlier` rows of these methods, recomputed if both runs are in `runs`.

    A row: {"method", "against": the first of `methods`, "parts": split of summary.json -> metric -> difference}.
    """
    rows = {row["method"]: dict(row) for row in earlier}
    first = methods[0]
    for method in methods[1:] if first in runs else ():
        if method in runs:
            rows[method] = {"method": method, "against": first, "parts": _differences(runs[first], runs[method])}
    return [rows[method] for method in sorted(rows) if method in methods]


def _differences(first: RunFolder, other: RunFolder) -> dict[str, Any]:
    """Compute the differences of two finished runs; cached until scores.json of a run changes."""
    return _cached_differences(first.path, other.path, *((run / SCORES).stat().st_mtime_ns for run in (first, other)))


@lru_cache(maxsize=256)
def _cached_differences(first: Path, other: Path, *modified: int) -> dict[str, Any]:
    run = RunFolder(first)
    scores, recipe = (run.scores["after"], RunFolder(other).scores["after"]), run.recipe
    differences = {}
    for key, split in REPORTED_SPLITS.items():
        if not all(key in side for side in scores):
            continue
        subjects = {row["id"]: row.get("subject") for row in run.answers("after", split.name)}
        differences[key] = {}
        for name in COMPARED:
            old, new = (side[key]["metrics"].get(name) for side in scores)
            if old is None or new is None:
                continue
            measurements = _measurement(old), _measurement(new)
            change = difference(name, split.scored_as, *measurements, subjects, recipe.metrics, recipe.seed)
            if change is not None:
                differences[key][name] = change.to_dict()
    return differences


def _measurement(saved: Mapping[str, Any]) -> Measurement:
    return Measurement(saved["value"], n=saved["n"], unscored=saved["unscored"], per_record=saved["per_record"])


def differences_by_method(rows: Iterable[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """Return method -> split -> metric -> difference to the first of `methods`, in the order of `methods`."""
    differences = {row["method"]: row["parts"] for row in rows if row["against"] == methods[0]}
    return {method: differences[method] for method in methods[1:] if method in differences}


def table(results: Sequence[Mapping[str, Any]], differences: Mapping[str, Any] | None = None) -> str:
    """Format table.md: metrics on held-out questions, metrics on trained questions, then the training of each method.

    `differences` to the first method, from `differences_by_method`, follow each table of metrics.
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
    return "\n".join([*lines, *_attacked(results), "## Training", "", *_training(results), ""])


def _attacked(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the table of audits: the worst case, and the share of the facts that each attack brings back."""
    audits = {value["method"]: value["audit"] for value in results if "audit" in value}
    if not audits:
        return []
    attacks = list(dict.fromkeys(name for audit in audits.values() for name in audit["back"]))
    rows = [
        [_name(method), audit["strength"] or MISSING, *map(_cell, (audit["worst"], *map(audit["back"].get, attacks)))]
        for method, audit in audits.items()
    ]
    caption = "Share of the known facts that come back: under any attack that counts, then by each attack."
    return ["## Under attack", "", caption, "", *_markdown(["method", "strength", "worst case", *attacks], rows), ""]


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
    """Format the table of paired differences to the first method."""
    shown = {method: own for method, own in differences.items() if any(part in own for part in parts.values())}
    if not shown:
        return []
    caption = f"Less {first}, on the same questions; in brackets 95 % intervals; p is a sign test by subject."
    rows = [
        [_name(method), *(_change(own.get(parts[split], {}).get(name)) for split, name, _ in columns)]
        for method, own in shown.items()
    ]
    return [caption, "", *_markdown(["method", *(title for _, _, title in columns)], rows), ""]


def _change(entry: Mapping[str, Any] | None) -> str:
    if not entry or entry["value"] is None:
        return MISSING
    if entry["low"] is None:
        return f"{entry['value']:+.2f}"
    left_out = f", {entry['unpaired']} left out" if entry["unpaired"] else ""
    return f"{entry['value']:+.2f} [{entry['low']:+.2f}, {entry['high']:+.2f}], {chance(entry)}{left_out}"


def ls_ratio(value: Mapping[str, Any], part: str) -> float | None:
    """Compute the linguistic score (mean per answer) divided by that of the start model on the same questions."""
    after = value.get(part, {}).get("ls", {}).get("value")
    before = value["before"].get(part, {}).get("ls", {}).get("value")
    return after / before if after is not None and before else None


def _training(results: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["method", "learning rate", "tried (KFR, KRR, LS ÷ start: score)", "steps", "tokens", "minutes"]
    rows = []
    for value in results:
        rate, seconds = value["chosen"].get("learning_rate"), value.get("seconds")
        tried = "<br>".join(_tried(entry) for entry in value["chosen"].get("grid", [])) or MISSING
        shown = [MISSING if rate is None else f"{rate:g}", tried, f"{value['steps']:,}", f"{value['tokens']:,}"]
        rows.append([_name(value["method"]), *shown, MISSING if seconds is None else f"{seconds / 60:.1f}"])
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
