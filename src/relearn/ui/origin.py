"""Which models a run folder would have loaded, and where they would come from: said before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relearn.core.errors import InputError
from relearn.core.run_dir import read_json
from relearn.models.builtin import find_builtin, is_builtin
from relearn.ui.run_data import Opened

HUB = "https://huggingface.co"
# The file in a result that names a model beside the run's own, and its key.
_SECOND = {"offset": ("offset.json", "small"), "eco": ("eco.json", "encoder")}
_PARTS = {
    "adapter": "the adapter that unlearning made", "model": "the weights that unlearning made",
    "offset": "the small model's adapter that unlearning made", "eco": "the classifier that unlearning made",
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """A model that would be loaded. `runs` name it; `parts` are put on top. `own`: it is a built-in one."""

    name: str
    own: bool
    source: str
    runs: tuple[str, ...]
    parts: tuple[str, ...]


def named_models(runs: Sequence[Opened]) -> list[Named]:
    """In the order of the runs that can be asked; a model that several name stands there once."""
    found: dict[str, Named] = {}
    for run in runs:
        for name, parts in _of(run):
            known = found.get(name)
            already, others = (known.runs, known.parts) if known else ((), ())
            found[name] = Named(
                name, is_builtin(name), _source(name, run), tuple(dict.fromkeys([*already, run.name])),
                tuple(dict.fromkeys([*others, *parts])),
            )  # fmt: skip
    return list(found.values())


def _of(run: Opened) -> list[tuple[str, list[str]]]:
    if run.recipe is None or run.result is None:
        return []
    parts = [f"the adapter {name}" for name in run.recipe.model.adapters]
    if run.recipe.learn:
        parts.append(f"the adapter that {run.name} learned first")
    parts.append(f"{_PARTS[run.result]}, in {run.name}")
    models = [(run.recipe.model.name, parts)]
    if run.result in _SECOND:
        models.append((_second(run.path / run.result, *_SECOND[run.result]), []))
    return models


def _second(folder: Path, file: str, key: str) -> str:
    kept = read_json(folder / file)
    if not isinstance(kept, dict) or not isinstance(kept.get(key), str):
        raise InputError(f"names no {key!r}", where=str(folder / file))
    return kept[key]


def _source(name: str, run: Opened) -> str:
    builtin = find_builtin(name)
    if builtin is not None and is_builtin(name):
        return f"built in, from the package {builtin.package}, checked against its pinned sha256"
    if Path(name).expanduser().is_dir():
        return "a folder on this machine"
    at = os.environ.get("HF_ENDPOINT") or HUB
    revision = run.recipe.model.revision if run.recipe and run.recipe.model.name == name else None
    return f"{at}{f', revision {revision}' if revision else ''}; downloaded unless it is in the cache already"
