"""Run folders as the page opens them: text and numbers are read, no model is loaded and nothing of the folder is run.

A folder may come from somebody else. Its recipe gets no environment variables, and one that asks for remote code is
refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.run_dir import existing_run, file_hash, read_json
from relearn.core.yaml_config import read_mapping
from relearn.ui.facts import Facts, read_facts
from relearn.ui.numbers import check_summary

# What unlearning leaves in a run folder, by the procedure that made it.
RESULTS = ("adapter", "model", "offset", "eco")
_VARIABLE = re.compile(r"\$\{\w+\}")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Opened:
    """One run folder. `name` is shown and unlike the others'.

    `recipe` and `result` (the folder in it that unlearning made) are None where the run cannot be asked; `closed` then
    says why. `trained`: False for an evaluation, which has no run.
    """

    name: str
    path: Path
    recipe: Recipe | None
    result: str | None
    closed: str
    trained: bool
    facts: Facts
    summary: Mapping[str, Any]

    @property
    def audit_command(self) -> str:
        return f"relearn audit {shlex.quote(str(self.path))}"

    @property
    def start(self) -> tuple[str, str] | None:
        """What the run began with; the same for runs that share a start model."""
        if self.recipe is None:
            return None
        learned = self.path / "start" / "adapter_model.safetensors"
        digest = file_hash(learned) if self.recipe.learn and learned.exists() else ""
        return self.recipe.model.model_dump_json(), digest


def open_runs(folders: Sequence[Path]) -> list[Opened]:
    """Raises InputError for what is no run folder, is not finished, asks for remote code or cannot be read."""
    if not folders:
        raise InputError("no run given", way_out="relearn ui runs/demo")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("a run is named twice", where=", ".join(map(str, folders)))
    opened: list[Opened] = []
    for folder in folders:
        opened.append(_open(folder, _unlike(folder.resolve().name, [run.name for run in opened])))
    return opened


def _open(folder: Path, name: str) -> Opened:
    existing_run(folder)
    evaluated = (folder / "evaluation.yaml").exists()
    recipe, result, closed = None, None, ""
    if (folder / "recipe.yaml").exists():
        recipe, result = _recipe(folder), _result(folder)
    elif evaluated:
        closed = "An evaluation has no run of its own, so there is no model here to ask."
    else:
        closed = "This run was purged: its texts and its recipe are gone, its numbers stay. It cannot be asked."
    summary = _readable(folder / "summary.json", lambda: _summary(folder))
    facts = _readable(folder, lambda: read_facts(folder))
    return Opened(name, folder, recipe, result, closed, not evaluated, facts, summary)


def _recipe(folder: Path) -> Recipe:
    path = folder / "recipe.yaml"
    values = read_mapping(path)
    if _VARIABLE.search(str(values)):
        raise InputError("names an environment variable, which a run folder is not told", where=str(path))
    recipe = Recipe.from_mapping(values, where=str(path))
    if recipe.model.trust_remote_code:
        raise InputError(
            "has trust_remote_code: true, so loading its model would run code that the folder names",
            where=str(path),
            way_out="relearn ask, if you trust it",
        )
    return recipe


def _result(folder: Path) -> str:
    found = next((name for name in RESULTS if (folder / name).is_dir()), None)
    if found is None:
        raise InputError("this run has not unlearned yet", where=str(folder), way_out="relearn run RECIPE --resume")
    return found


def _summary(folder: Path) -> Mapping[str, Any]:
    path = folder / "summary.json"
    return check_summary(read_json(path)) if path.exists() else {}


def _readable(where: Path, read: Callable[[], Value]) -> Value:
    """What `read` gives; a file of another shape is an error of one line."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise InputError(f"is not what relearn writes ({type(error).__name__})", where=str(where)) from None


def _unlike(name: str, taken: Sequence[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name} {number}", number + 1
    return found
