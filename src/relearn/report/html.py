"""Render report.json as one self-contained HTML page, and redact reports.

The page has no script and makes no request. Its content security policy allows its one style block by hash. jinja2
escapes all texts; filters on the page use only CSS, and long lists are divided into parts that the browser opens. A
redacted report keeps numbers, verdicts and hashes, but no text that could name a person.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from relearn.core.console import visible
from relearn.core.run_dir import SIDES
from relearn.metrics.metric import direction_of
from relearn.report import labels, plots
from relearn.report.kfr_krr_plot import checkpoint_curves
from relearn.report.plots import analysis_charts
from relearn.report.sections import TITLES as AUDIT_TITLES
from relearn.report.sections import redacted_analysis, redacted_audits
from relearn.report.summary import marked

TEMPLATES = Path(__file__).parent / "templates"
# Most items on the page, failures first; report.json has all items.
SHOWN_ITEMS = 300
# Items per part of a list that opens on its own, so that a page of hundreds of answers stays short.
PAGE_ITEMS = 20
SHOWN_REJECTIONS = 60
_ORDER = {name: index for index, name in enumerate(labels.VERDICTS)}


def render(report: Mapping[str, Any]) -> str:
    """Render the result of `build_report` as an HTML page."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    sources = f"default-src 'none'; style-src '{digest(style)}'; img-src data:"
    return (
        environment()
        .get_template("report.html")
        .render(
            report=report,
            style=Markup(style),
            verdicts=_verdicts(report),
            policy=f"{sources}; base-uri 'none'; form-action 'none'",
            charts=_charts(report),
            tables=[_table(split, report["metrics"]) for split in labels.SPLITS if _of(split, report["metrics"])],
            answers=[{**entry, **_shown(entry["items"])} for entry in report["answers"]],
            facts=_pages(report["audits"]["facts"][:SHOWN_ITEMS]) if report["audits"] else [],
            rejected=sorted(report["rejections"]["rows"], key=lambda row: not row["final"])[:SHOWN_REJECTIONS],
            recipe=yaml.safe_dump(report["provenance"]["recipe"], sort_keys=False, allow_unicode=True),
        )
    )


def render_with_script(name: str, **values: Any) -> str:
    """Render a template whose style and script are fixed; its content security policy allows these two by hash."""
    template = (TEMPLATES / name).read_text(encoding="utf-8")
    blocks = re.findall(r"<(style|script)>(.*?)</\1>", template, flags=re.DOTALL)
    sources = (f"{kind}-src '{digest(block)}'" for kind, block in blocks)
    policy = "; ".join(("default-src 'none'", *sources, "img-src data:", "base-uri 'none'", "form-action 'none'"))
    return environment().get_template(name).render(policy=policy, **values)


def _verdicts(report: Mapping[str, Any]) -> Mapping[str, str]:
    alone = report["evaluated"] is not None and "before" not in report["evaluated"]
    return labels.VERDICTS_ALONE if alone else labels.VERDICTS


def digest(block: str) -> str:
    """Compute the source expression of a style or script block for a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(block.encode('utf-8')).digest()).decode('ascii')}"


@cache
def environment() -> Environment:
    """Make the template environment: all texts are escaped and control characters are shown."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters |= {
        "number": labels.number,
        "interval": labels.interval,
        "duration": labels.duration,
        "percent": labels.percent,
        "label": labels.metric_label,
        "description": labels.metric_description,
        "signed": labels.signed,
        "chance": labels.chance,
    }
    environment.globals |= {
        "splits": labels.SPLITS,
        "marked": marked,
        "evidence": _evidence,
        "loss_parts": labels.LOSS_PARTS,
        "row_kinds": labels.ROW_KINDS,
        "counted": labels.counted,
        "audit_titles": AUDIT_TITLES,
    }
    return environment


def _shown(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Choose the items that the page shows: all, or the first SHOWN_ITEMS sorted by verdict, failures first."""
    if len(items) <= SHOWN_ITEMS:
        return {"pages": _pages(items), "left_out": 0}
    ordered = sorted(items, key=lambda item: _ORDER[item["verdict"]])
    return {"pages": _pages(ordered[:SHOWN_ITEMS]), "left_out": len(items) - SHOWN_ITEMS}


def _pages(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Divide items into pages of PAGE_ITEMS; `first` and `last` are their numbers, from 1."""
    starts = range(0, len(items), PAGE_ITEMS)
    pages = [(start, items[start : start + PAGE_ITEMS]) for start in starts]
    return [{"first": start + 1, "last": start + len(page), "entries": page} for start, page in pages]


def _of(split: str, metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for entry in metrics if entry["split"] == split]


def _table(split: str, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the parts of a split side by side; text that all notes of a row share moves below the table."""
    parts = _of(split, metrics)
    by_name = [{row["name"]: row for row in entry["rows"]} for entry in parts]
    rows, shared = [], []
    for name in labels.in_order({name for named in by_name for name in named}):
        empty = {"before": None, "after": None, "difference": None, "change": ""}
        cells = [{**empty, **named.get(name, {})} for named in by_name]
        cells = [{**cell, **{side: dict(cell[side]) for side in SIDES if cell[side]}} for cell in cells]
        measured = [side for cell in cells for side in (cell["before"], cell["after"]) if side]
        apart, common = _noted([side.get("note") or "" for side in measured])
        if common:
            shared.append((name, common))
        for side, note in zip(measured, apart, strict=True):
            side["note"] = note
        rows.append({"name": name, "better": direction_of(name, split), "cells": cells})
    paired = any(cell["difference"] for row in rows for cell in row["cells"])
    return {
        "split": split,
        "titles": [entry["title"] for entry in parts],
        "rows": rows,
        "notes": shared,
        "paired": paired,
    }


def _noted(notes: Sequence[str]) -> tuple[list[str], str]:
    """Separate the parts that all non-empty notes share; the parts of a note are joined by `; `."""
    parts = [note.split("; ") if note else [] for note in notes]
    filled = [own for own in parts if own]
    common = [part for part in filled[0] if all(part in own for own in filled)] if filled else []
    return ["; ".join(part for part in own if part not in common) for own in parts], "; ".join(common)


def _evidence(answer: Mapping[str, Any]) -> str:
    """Describe the evidence for the verdict on an answer in one line."""
    evidence = []
    in_reference, matched = answer["entity_counts"]
    if in_reference:
        evidence.append(f"names {matched} of {labels.counted(in_reference, 'thing')}")
    elif in_reference == 0:
        evidence.append("the reference names nothing to look for")
    if answer["entailment"]:
        evidence.append(f"judge: {answer['entailment']}")
    if answer.get("repeats"):
        evidence.append(_over_repeats(answer))
    evidence += [
        f"{labels.metric_label(name)} {labels.number(answer[name])}"
        for name in ("rouge_l", "ls")
        if answer[name] is not None
    ]
    return " · ".join(evidence)


def _over_repeats(answer: Mapping[str, Any]) -> str:
    """Describe the decisions on all answers to a question that was sampled several times."""
    decided = [value for value in answer["repeats"] if value is not None]
    what = "forgotten" if "forgotten" in answer else "kept"
    return f"{what} in {sum(decided)} of {len(decided)} answers"


def _charts(report: Mapping[str, Any]) -> dict[str, dict[str, Markup]]:
    drawn = {
        "metrics": {
            entry["part"]: plots.before_after(entry["rows"], f"metrics-{entry['part']}", entry["title"])
            for entry in report["metrics"]
        },
        "coverage": {entry["part"]: _distribution(entry, "coverage", "entity coverage") for entry in report["answers"]},
        "ls": {entry["part"]: _distribution(entry, "ls", "LS of an answer", 0.6) for entry in report["answers"]},
        "loss": {
            curve["stage"]: plots.loss_curves(curve, f"loss-{index}") for index, curve in enumerate(report["training"])
        },
        "checkpoints": {
            stage: checkpoint_curves({stage: curve["evaluations"]}, f"checkpoints-{index}", stage)
            for index, curve in enumerate(report["training"])
            if (stage := curve["stage"])
        },
        "ignorance": {"p": plots.sorted_p_values(_p_values(report["audits"]), "ignorance-p")},
        "inside": analysis_charts(report.get("inside")),
    }
    # Safe: the charts contain fixed words and numbers, escaped by the XML writer.
    return {kind: {key: Markup(svg) for key, svg in of_kind.items() if svg} for kind, of_kind in drawn.items()}


def _p_values(audits: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return ((audits or {}).get("ignorance") or {}).get("p_values", {})


def _distribution(entry: Mapping[str, Any], value: str, label: str, upper: float = 1.0) -> str:
    sides = [[(item[side] or {}).get(value) for item in entry["items"]] for side in SIDES]
    return plots.distribution(sides[0], sides[1], f"{value}-{entry['part']}", label, upper)


HIDDEN = "[hidden]"
_DATA = ("name", "data", "forget", "retain", "holdout", "real_authors", "world_facts")


def redacted(report: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the report without record texts, answers, entities, record ids, subjects and input paths."""
    names = {entry["path"]: f"input {i}{PurePath(entry['path']).suffix}" for i, entry in enumerate(_inputs(report), 1)}
    provenance = report["provenance"]
    return {
        **report,
        "redacted": True,
        "name": HIDDEN,
        "folder": "RUN",
        "notes": [_without_paths(note, names) for note in report["notes"]],
        "answers": [
            {**entry, "items": [_item(item, f"{entry['part']} {i}") for i, item in enumerate(entry["items"], 1)]}
            for entry in report["answers"]
        ],
        "audits": redacted_audits(report["audits"], HIDDEN),
        "inside": redacted_analysis(report.get("inside")),
        "synthesis": {
            **report["synthesis"],
            "sample": [{**row, "prompt": HIDDEN, "target": HIDDEN} for row in report["synthesis"]["sample"]],
        },
        "rejections": {
            **report["rejections"],
            "rows": [
                {**row, "prompt": HIDDEN, "target": HIDDEN, "reason": HIDDEN} for row in report["rejections"]["rows"]
            ],
        },
        "provenance": {
            **provenance,
            "inputs": [{**entry, "path": names[entry["path"]]} for entry in _inputs(report)],
            "recipe": _recipe(provenance["recipe"]),
        },
    }


def _inputs(report: Mapping[str, Any]) -> list[dict[str, str]]:
    return report["provenance"]["inputs"]


def _without_paths(note: str, names: Mapping[str, str]) -> str:
    for path in sorted(names, key=len, reverse=True):
        note = note.replace(path, names[path])
    return note


def _item(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        **item,
        "id": name,
        "subject": None,
        "question": HIDDEN,
        "reference": HIDDEN,
        **{side: _side(item[side]) for side in SIDES},
    }


def _side(side: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if side is None else {**side, "response": HIDDEN, "reference_entities": None, "matched": None}


def _recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Hide the keys of a recipe or an evaluation's settings that name data or contain a system prompt."""
    kept = {**recipe, **{key: HIDDEN for key in _DATA if recipe.get(key)}}
    for part, key in (("learn", "data"), *((role, "system_prompt") for role in ("model", "before", "after", "base"))):
        if isinstance(kept.get(part), Mapping) and kept[part].get(key):
            kept[part] = {**kept[part], key: HIDDEN}
    return kept
