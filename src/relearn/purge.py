"""Take every text out of a run folder: what is left may be kept or handed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relearn.rundir import (
    RunDir,
    foreign_in,
    locked,
    outputs_in,
    own_folder,
    read_json,
    remove_outputs,
    write_json,
)

# The start adapter knows the secrets: it goes too. The unlearned result and numbers stay.
KEPT = ("adapter", "model", "offset", "eco", "manifest.json", "summary.json", "scores.json", "lock")


def purge(folder: Path, *, really: bool) -> list[str]:
    """Name the outputs of a folder that hold texts, and remove them when `really`; scores.json loses its texts.

    What is not relearn's stays (`left_alone`). A link is removed, and what it points to is not. Raises InputError for a
    folder that relearn did not make, and where a process is at work.
    """
    own_folder(folder, links=True)
    going = {entry.relative_to(folder).parts[0] for entry in outputs_in(folder)}
    if really:
        with locked(RunDir(folder)):
            scores = folder / "scores.json"
            if scores.is_file():
                write_json(scores, _without_texts(read_json(scores)))
            # A folder of version 0.1 is known by its recipe, which goes.
            RunDir(folder).update_manifest()
            remove_outputs(folder, KEPT)
    return sorted(going.difference(KEPT))


def left_alone(folder: Path) -> list[str]:
    """Name what is in a folder and is not relearn's, relative to it."""
    return [str(entry.relative_to(folder)) for entry in foreign_in(folder)]


def _without_texts(value: Any) -> Any:
    """Return the same numbers without the entities of references and answers."""
    if isinstance(value, dict):
        return {
            key: _without_texts(part) for key, part in value.items() if key not in ("reference_entities", "matched")
        }
    return value
