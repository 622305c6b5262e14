"""The report without anyone's texts: numbers, verdicts and hashes stay, all that could name a person goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from relearn.report.inside import redacted_inside
from relearn.report.sections import redacted_audits

HIDDEN = "[hidden]"
_DATA = ("name", "data", "forget", "retain", "holdout", "real_authors", "world_facts")


def redacted(report: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `report` in which no text of a record, no answer, entity, record id, subject or input path is left."""
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
        "inside": redacted_inside(report.get("inside")),
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
        **{side: _side(item[side]) for side in ("before", "after")},
    }


def _side(side: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if side is None else {**side, "response": HIDDEN, "reference_entities": None, "matched": None}


def _recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe, or an evaluation's settings, less what names data or speaks to the model."""
    kept = {**recipe, **{key: HIDDEN for key in _DATA if recipe.get(key)}}
    for part, key in (("learn", "data"), *((role, "system_prompt") for role in ("model", "before", "after", "base"))):
        if isinstance(kept.get(part), Mapping) and kept[part].get(key):
            kept[part] = {**kept[part], key: HIDDEN}
    return kept
