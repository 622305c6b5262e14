"""Define a stage of a run, and the context that all stages share: recipe, folder, records and models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core.config import Recipe
from relearn.core.run_dir import CACHE, SIDES, RunFolder
from relearn.core.splits import SPLITS, EvalSplit
from relearn.data import Record
from relearn.data.validation import DataSet
from relearn.inference.run_models import ModelSet
from relearn.llm.generators import make_completer
from relearn.synthesis.questions import wording_records
from relearn.unlearning.method import METHODS, Method


@dataclass(frozen=True)
class Stage:
    """Define one stage of a run.

    `check(recipe, data)`: raises InputError for input that `run` cannot process; the checks of all stages run before
    anything is written. `outputs`: lists the files that `run` writes, relative to the run folder; an empty list skips
    the stage. `all_processes`: all processes of a distributed run execute the stage, not only the main process.
    `uses_method`: the stage needs the unlearning method, which may come from a plug-in.
    """

    name: str
    check: Callable[[Recipe, DataSet], None]
    outputs: Callable[[RunContext], list[str]]
    run: Callable[[RunContext], None]
    all_processes: bool = False
    uses_method: bool = False


def no_check(recipe: Recipe, data: DataSet) -> None:
    """Accept every recipe, for stages without their own input."""


class RunContext:
    """Hold the recipe, folder, records and models of a run for its stages.

    `interrupted`: the current stage was started by an earlier call and not completed.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, data: DataSet):
        self.recipe = recipe
        self.folder = folder
        self.data = data
        self.models = ModelSet.of_run(recipe, folder.path)
        self.interrupted = False

    @property
    def method(self) -> Method:
        return METHODS.get(self.recipe.unlearn.method)

    @property
    def splits(self) -> list[EvalSplit]:
        """List the splits that have records, in the order of asking."""
        return [split for split in SPLITS.values() if self.records(split.name)]

    def records(self, split: str) -> Sequence[Record]:
        """Return the records of a split, including records that earlier stages wrote (wordings, neighbours)."""
        if split == "wordings":
            return wording_records(self.data.forget, self.folder.wordings)
        if split == "retain" and not self.data.retain:
            return tuple(Record(**row) for row in self.folder.neighbour_rows)
        return getattr(self.data, split)

    def answer_files(self) -> list[list[Path]]:
        """List, for each split, its answer files before and after unlearning."""
        return [[self.folder.answers_path(side, split.name) for side in SIDES] for split in self.splits]

    def generator(self) -> Any:
        """Make the client of `synthesis.generator`, with the answer cache of the run."""
        settings = self.recipe.synthesis
        return make_completer(settings.generator, settings, self.folder / CACHE)

    def entity_generator(self) -> Any:
        """Make the client of the generator that extracts entities; None if spaCy extracts them."""
        return None if self.recipe.metrics.entities == "spacy" else self.generator()

    def log(self, stage: str) -> Callable[..., None]:
        """Return a function that appends rows to log.jsonl with the name of a stage."""
        return lambda **row: self.folder.log(stage=stage, **row)
