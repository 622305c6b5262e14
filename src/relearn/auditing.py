"""`relearn audit RUN`: the attacks on a finished run, made of what its own folder holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from relearn import console
from relearn.audits.material import Material
from relearn.audits.models import AuditModels
from relearn.audits.runner import AuditRun, chosen
from relearn.audits.verdicts import VERDICTS, Verdict
from relearn.config import Recipe, Synthesis
from relearn.errors import InputError
from relearn.llm.make import make_completer
from relearn.records import Record
from relearn.records.sample import evenly
from relearn.report.build import write_report
from relearn.rundir import RunDir, locked, outputs_in, own_folder, read_json, read_jsonl, refuse_overwrite
from relearn.synthesis.generic_data import load_generic
from relearn.synthesis.verification import Verifier
from relearn.synthesis.wordings import write_wordings

WORDINGS = 6
PROMPT_MARKS = ("{{ prompt }}", "{{prompt}}", "[INSERT PROMPT HERE]", "PROMPT")


def audit(
    folder: Path,
    attacks: str = "all",
    *,
    control: Path | None = None,
    templates: Path | None = None,
    facts: int | None = None,
    samples: int = 8,
) -> list[Verdict]:
    """Attack the run in `folder` and write audits/; answers that are there already are not asked for again.

    `control`: a run, adapter or model that never saw the facts; the base model when None. `templates`: a folder of
    jailbreak templates (.yaml with `value`, or .txt). `facts`: at most so many of the forget records. Raises InputError
    for a run that is not finished and for what cannot be read.
    """
    recipe = Recipe.from_yaml(own_folder(folder, "recipe.yaml") / "recipe.yaml")
    audits = chosen(attacks)
    for needed in ("before/forget.jsonl", "after/forget.jsonl"):
        if not (folder / needed).exists():
            raise InputError(
                "this run is not finished, or was purged",
                where=str(folder / needed),
                way_out="relearn run ... --resume",
            )
    models = AuditModels(recipe, folder, control)
    material = _material(recipe, folder, read_templates(templates) if templates else {}, facts, samples)
    refuse_overwrite(outputs_in(folder), [templates])
    with locked(RunDir(folder)):
        found = AuditRun(material, models, audits).do()
        write_report(folder)
    return found


def _material(recipe: Recipe, folder: Path, templates: dict[str, str], facts: int | None, samples: int) -> Material:
    forget = _records(folder, "forget")
    chosen_facts = evenly(forget, facts) if facts else forget
    return Material(
        chosen_facts, _records(folder, "retain"), load_generic(), wordings(chosen_facts, folder, recipe), recipe,
        folder, templates, samples, recipe.seed,
    )  # fmt: skip


def _records(folder: Path, part: str) -> list[Record]:
    path = folder / "before" / f"{part}.jsonl"
    rows = read_jsonl(path) if path.exists() else []
    return [
        Record(row["question"], row["reference"], row["id"], row["subject"], form=row.get("form", "chat"))
        for row in rows
    ]


def wordings(facts: Sequence[Record], folder: Path, recipe: Recipe) -> dict[str, list[str]]:
    """Other questions for each fact: held-out ones with the same answer, then wordings written offline, as many as
    `metrics.worst_case` says or six."""
    held_out: dict[tuple[str | None, str], list[str]] = {}
    for probe in _records(folder, "probes_forget"):
        held_out.setdefault((probe.subject, probe.answer), []).append(probe.question)
    settings = Synthesis()
    count = recipe.metrics.worst_case or WORDINGS
    written = write_wordings(
        facts, count, settings, make_completer("templates", settings, None), Verifier(facts).leaks, recipe.seed
    )
    return {
        record.id: list(dict.fromkeys([*held_out.get((record.subject, record.answer), ()), *written[record.id]]))
        for record in facts
    }


def read_templates(folder: Path) -> dict[str, str]:
    """Name -> template, PROMPT where the question belongs; a template without a place for it takes it at the end."""
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml"), *folder.glob("*.txt")]) if folder.is_dir() else []
    if not files:
        raise InputError("no templates there", where=str(folder), way_out="a folder of .yaml (with `value`) or .txt")
    return {file.stem: _template(file) for file in files}


def _template(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".txt":
        try:
            value = next(part for part in yaml.safe_load_all(text) if part)
        except (yaml.YAMLError, StopIteration):
            raise InputError("not YAML", where=str(file)) from None
        text = value.get("value") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise InputError("has no text `value`", where=str(file))
    mark = next((mark for mark in PROMPT_MARKS if mark in text), None)
    return f"{text.rstrip()}\n\nPROMPT" if mark is None else text.strip().replace(mark, "PROMPT")


def print_audit(folder: Path, found: Sequence[Verdict]) -> None:
    """The table of attacks, and how many facts have which verdict."""
    summary: dict[str, Any] = read_json(folder / "audits" / "summary.json")
    table = Table(title="share of facts stated")
    for name in ("attack", "before", "after", "control", "brought back", "change against the plain question"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    for name, row in summary.items():
        if "shown" in row:
            continue
        cells = (row["before"]["stated"], row["after"]["stated"], row["control"]["stated"], row["back"], row["change"])
        table.add_row(escape(name), *map(_shown, cells))
    console.out.print(table)
    _print_beside(summary)
    worst = read_json(folder / "audits" / "worst.json")
    console.out.print(f"worst case over the attacks that count: {_shown(worst['after'])} of the facts known before")
    counts = Counter(verdict.verdict for verdict in found)
    console.out.print(", ".join(f"{name} {counts[name]}" for name in VERDICTS), markup=False)


def _print_beside(summary: Mapping[str, Any]) -> None:
    """What attacks read inside the model; per-layer numbers stay in their files."""
    inside = {name: row for name, row in summary.items() if "shown" in row}
    if not inside:
        return
    table = Table(title="shown beside the verdicts")
    for name in ("attack", "measure", "before", "after", "control"):
        table.add_column(name, justify="left" if name in ("attack", "measure") else "right")
    nothing = {"value": None}
    for name, row in inside.items():
        measures = [one for one in row["after"] if not one.startswith("layer ")]
        for measure in measures:
            cells = (row[side].get(measure, nothing) for side in ("before", "after", "control"))
            table.add_row(escape(name), escape(measure), *map(_shown, cells))
        if not measures:
            table.add_row(escape(name), f"not measured: {row['not_measured']}", "", "", "")
    console.out.print(table)


def _shown(measured: dict[str, Any]) -> str:
    if measured["value"] is None:
        return "not asked"
    interval = f" ({measured['low']:.2f} to {measured['high']:.2f})" if measured.get("low") is not None else ""
    return f"{measured['value']:.2f}{interval}"
