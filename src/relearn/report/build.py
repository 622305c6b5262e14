"""Build report.json from a run folder, and write report.html and model_card.md from it.

If files are missing (a run without a retain set, a purged folder), their part of the report is empty. The folder of an
evaluation is read in the same way. With `redact`, the report contains no text of records, answers or entities and no
names of records or input files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from relearn.core import files
from relearn.core.errors import InputError
from relearn.core.run_dir import (
    EVALUATION,
    MANIFEST,
    MODEL_CARD,
    RECIPE,
    REJECTED,
    REPORT_HTML,
    REPORT_JSON,
    SIDES,
    SYNTHESIS,
    RunFolder,
)
from relearn.core.yaml_config import read_mapping
from relearn.data.record import evenly
from relearn.metrics.metric import direction_of
from relearn.report.html import redacted
from relearn.report.kfr_krr_plot import checkpoints
from relearn.report.labels import PARTS, change, in_order, metric_label, part_title
from relearn.report.sections import read_analysis, read_audits
from relearn.report.summary import headline, known, pair_items, verdict_counts

SAMPLE_ROWS = 12
FORMAT = 1
# Parts of summary.json without their own questions.
_NOT_ASKED = ("ability", "overall")
_KNOWLEDGE = ("kfr", "krr")


def build_report(run: Path, redact: bool = False) -> dict[str, Any]:
    """Build the content of report.json. Raises InputError if `run` is not a run folder."""
    run = Path(run)
    if not (run / MANIFEST).exists():
        raise InputError("not a run folder, it has no manifest.json", where=str(run))
    folder = RunFolder(run)
    manifest = files.read_json(run / MANIFEST)
    recipe, evaluation = _settings(run / RECIPE), _settings(run / EVALUATION)
    trained = not evaluation
    summary = folder.summary
    answers = _answers(folder, trained)
    rows, rejected = folder.rows(SYNTHESIS, torn=True), folder.rows(REJECTED, torn=True)
    audits = read_audits(run)
    report: dict[str, Any] = {
        "format": FORMAT,
        "name": recipe.get("name") or run.name,
        "folder": str(run),
        "redacted": False,
        "evaluated": _evaluated(evaluation) if evaluation else None,
        "date": _date(manifest),
        "model": _model(recipe, manifest),
        "method": _method(recipe, manifest),
        "headline": headline(summary, answers, trained, audits),
        "notes": list(dict.fromkeys(manifest.get("notes") or [])),
        "measured_notes": _measured_notes(recipe, summary, trained),
        "metrics": _metrics(summary, trained),
        "answers": answers,
        "audits": audits,
        "inside": read_analysis(run),
        "training": _training(folder.log_rows),
        "synthesis": {"counts": _row_counts(rows), "sample": _sample(rows)},
        "rejections": _rejections(rejected),
        "provenance": _provenance(manifest, recipe or evaluation),
    }
    return redacted(report) if redact else report


def write_report(run: Path, redact: bool = False) -> Path:
    """Write report.json, report.html and model_card.md into `run`, each atomically; return the path of report.html.

    For an evaluation there is no model card, because it makes no model. Existing files are replaced. Raises InputError
    if `run` is not a run folder.
    """
    from relearn.report.html import render
    from relearn.report.model_card import model_card

    run = Path(run)
    report = build_report(run, redact=redact)
    page, card = render(report), None if report["evaluated"] is not None else model_card(report)
    files.write_json(run / REPORT_JSON, report)
    files.write_text(run / REPORT_HTML, page)
    if card is not None:
        files.write_text(run / MODEL_CARD, card)
    return run / REPORT_HTML


def _settings(path: Path) -> dict[str, Any]:
    return read_mapping(path) if path.exists() else {}


def _date(manifest: Mapping[str, Any]) -> str | None:
    started = [stage["started"] for stage in manifest.get("stages", {}).values() if stage.get("started")]
    return datetime.fromtimestamp(min(started), UTC).isoformat(timespec="seconds") if started else None


def _model(recipe: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    named, facts = recipe.get("model") or {}, manifest.get("model") or {}
    return {
        "name": named.get("name"),
        "revision": named.get("revision"),
        "adapter": named.get("adapter"),
        "base": (recipe.get("metrics") or {}).get("base_model"),
        "learned_first": recipe.get("learn") is not None,
        "facts": {key: value for key, value in facts.items() if value not in (None, "") and key not in named},
    }


def _evaluated(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the models that were asked, and of the base model; {} if answers were read from files."""
    models = {role: evaluation.get(role) for role in ("before", "after", "base")}
    return {role: _with_adapters(model) for role, model in models.items() if model}


def _with_adapters(model: Mapping[str, Any]) -> str:
    adapters = model.get("adapter") or ()
    return " + ".join([model["name"], *([adapters] if isinstance(adapters, str) else adapters)])


def _method(recipe: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    unlearn, synthesis = recipe.get("unlearn") or {}, recipe.get("synthesis") or {}
    keys = ("method", "epochs", "learning_rate", "batch_size", "accumulation", "full", "lora", "options")
    return {
        **{key: unlearn.get(key) for key in keys},
        "makes": _makes(manifest),
        "generator": synthesis.get("generator"),
        "judge": synthesis.get("judge"),
    }


def _makes(manifest: Mapping[str, Any]) -> str | None:
    """Return the name of the folder that unlearning wrote: adapter, model, offset or eco."""
    outputs = manifest.get("stages", {}).get("unlearn", {}).get("outputs")
    return outputs[0] if outputs else None


def _measured_notes(recipe: Mapping[str, Any], summary: Mapping[str, Any], trained: bool) -> list[str]:
    """List the judges behind the numbers and the answers that could not be judged, without texts, names or paths."""
    notes = []
    adapted = recipe.get("learn") or (recipe.get("model") or {}).get("adapter")
    if recipe and not adapted and not (recipe.get("metrics") or {}).get("base_model"):
        notes.append("Perplexity and LS rest on the start model: no model from before its fine-tuning was given.")
    for part, measured in _parts_of(summary):
        for name in _KNOWLEDGE:
            entry = measured.get(name, {})
            if entry.get("note"):
                notes.append(f"{name.upper()} {entry['note']}.")
            if entry.get("unscored") and not entry.get("missing"):
                total, title = entry["n"] + entry["unscored"], part_title(part, trained).lower()
                notes.append(f"{entry['unscored']} of {total} answers could not be judged ({title}).")
        notes += _missing(measured, part_title(part, trained).lower())
    return list(dict.fromkeys([*notes, *_repeated(summary)]))


def _missing(measured: Mapping[str, Any], title: str) -> list[str]:
    """List the reasons why metrics of a part leave out items, one sentence for all metrics with the same reason."""
    by_reason: dict[str, list[str]] = {}
    for name in in_order(measured):
        if measured[name].get("missing") and (name in _KNOWLEDGE or measured[name]["value"] is not None):
            by_reason.setdefault(measured[name]["missing"], []).append(metric_label(name))
    return [f"{', '.join(names)}: {reason} ({title})." for reason, names in by_reason.items()]


def _repeated(summary: Mapping[str, Any]) -> list[str]:
    counts = {
        entry.get("repeats", 1)
        for part, measured in _parts_of(summary)
        for entry in measured.values()
        if part not in _NOT_ASKED
    }
    if max(counts, default=1) == 1:
        return []
    every = "Every question was asked" if len(counts) == 1 else "Questions were asked up to"
    return [
        f"{every} {max(counts)} times: the numbers are means of all answers, verdicts and counts are "
        "those of the first."
    ]


def _parts_of(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    after = summary.get("after") or {}
    return [(part, after[part]) for part in PARTS if part in after]


def _metrics(summary: Mapping[str, Any], trained: bool) -> list[dict[str, Any]]:
    """Make one entry per measured part of summary.json, with its metrics in the order of the tables."""
    entries = []
    for part, (split, _, _) in PARTS.items():
        sides = ("before", "after", "difference")
        before, after, differences = ((summary.get(side) or {}).get(part) or {} for side in sides)
        rows = []
        for name in in_order({*before, *after}):
            old, new, direction = before.get(name), after.get(name), direction_of(name, split)
            difference = differences.get(name)
            rows.append(
                {
                    "name": name,
                    "better": direction,
                    "before": old,
                    "after": new,
                    "difference": difference,
                    "change": change(old, new, direction, difference),
                }
            )
        if rows:
            entries.append({"part": part, "split": split, "title": part_title(part, trained), "rows": rows})
    return entries


def _answers(folder: RunFolder, trained: bool) -> list[dict[str, Any]]:
    entries, scores = [], folder.scores
    for part, (split, file, _) in PARTS.items():
        before, after = (folder.answers(side, file) for side in SIDES)
        scored = [(scores.get(side) or {}).get(part) or {} for side in SIDES]
        items = pair_items(split, before, after, *scored)
        if items:
            entries.append(
                {
                    "part": part,
                    "split": split,
                    "title": part_title(part, trained),
                    "counts": verdict_counts(items),
                    "known_before": known(split, items, "before"),
                    "known_after": known(split, items, "after"),
                    "items": items,
                }
            )
    return entries


def _training(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Collect the loss by part and step for each training stage; a step repeated by a resumed run counts once."""
    stages: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in log:
        stage, step = row.get("stage"), row.get("step")
        if stage is not None and step is not None and row.get("loss") is not None:
            stages.setdefault(stage, {})[step] = row
    return [_curve(stage, rows, checkpoints(log, stage)) for stage, rows in stages.items()]


def _curve(
    stage: str, rows: Mapping[int, Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    steps = sorted(rows)
    names = list(dict.fromkeys(name for step in steps for name in rows[step].get("parts") or {}))
    return {
        "stage": stage,
        "steps": steps,
        "loss": [rows[step]["loss"] for step in steps],
        "parts": {name: [(rows[step].get("parts") or {}).get(name) for step in steps] for name in names},
        "tokens": sum(rows[step].get("tokens") or 0 for step in steps),
        "evaluations": list(evaluations),
    }


def _row_counts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    counts = Counter((row["kind"], row.get("variant") or "") for row in rows)
    return [{"kind": kind, "variant": variant, "rows": count} for (kind, variant), count in sorted(counts.items())]


def _sample(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sample rows at even distances for each kind, so that every kind is in the sample."""
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in dict.fromkeys(r["kind"] for r in rows)}
    share = -(-SAMPLE_ROWS // max(1, len(kinds)))
    chosen = [row for of_kind in kinds.values() for row in evenly(of_kind, share)]
    return [{key: row.get(key) for key in ("kind", "variant", "prompt", "target")} for row in chosen[:SAMPLE_ROWS]]


def _rejections(rejected: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kinds = Counter(row.get("kind") or "other" for row in rejected)
    keys = ("variant", "prompt", "target", "attempt", "kind", "reason", "final")
    return {
        "total": len(rejected),
        "final": sum(bool(row.get("final")) for row in rejected),
        "by_kind": [{"kind": kind, "rows": count} for kind, count in kinds.most_common()],
        "rows": [{key: row.get(key) for key in keys} for row in rejected],
    }


def _provenance(manifest: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    stages = manifest.get("stages", {})
    # The report is written while its own stage is still running.
    done = [name for name in stages if name != "report"]
    return {
        "seed": manifest.get("seed", recipe.get("seed")),
        "git": manifest.get("git"),
        "versions": manifest.get("versions") or {},
        "inputs": [{"path": path, "sha256": digest} for path, digest in (manifest.get("inputs") or {}).items()],
        "stages": [{"name": name, **{key: stages[name].get(key) for key in ("state", "seconds")}} for name in done],
        "counts": manifest.get("counts") or {},
        "recipe": dict(recipe),
    }
