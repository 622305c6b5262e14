"""Take every text out of a run folder: what is left may be kept or handed on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from relearn.core.run_dir import read_json, write_json

# The start adapter knows the secrets: it goes too. The unlearned result and numbers stay.
KEPT = ("adapter", "model", "offset", "eco", "manifest.json", "summary.json", "scores.json")


def purge(folder: Path, *, really: bool) -> list[str]:
    """Names of what holds texts; removed when `really`. scores.json is rewritten without its texts."""
    going = sorted(entry for entry in folder.iterdir() if entry.name not in KEPT)
    if really:
        for entry in going:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        scores = folder / "scores.json"
        if scores.exists():
            write_json(scores, _without_texts(read_json(scores)))
    return [entry.name for entry in going]


def _without_texts(value: Any) -> Any:
    """The same numbers without the entities of references and answers."""
    if isinstance(value, dict):
        return {
            key: _without_texts(part) for key, part in value.items() if key not in ("reference_entities", "matched")
        }
    return value
