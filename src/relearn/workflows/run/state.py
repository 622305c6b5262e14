"""What the stages of a run share: recipe, folder, records, models. Each stage reads what earlier ones wrote there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core.config import Recipe
from relearn.core.run_dir import RunDir, read_jsonl
from relearn.data import Record
from relearn.data.validation import DataSet
from relearn.inference.run_models import ModelSet
from relearn.llm.generators import make_completer
from relearn.synthesis.questions import wording_records
from relearn.unlearning.method import METHODS, Method

# set of records -> (file in before/ and after/, split it is scored as, name in summary.json)
PARTS = (
    ("forget", "forget", "forget"),
    ("retain", "retain", "retain"),
    ("wordings", "forget", "forget_wordings"),
    ("probes_forget", "forget", "forget_heldout"),
    ("probes_retain", "retain", "retain_heldout"),
    ("holdout", "holdout", "holdout"),
    ("real_authors", "retain", "real_authors"),
    ("world_facts", "retain", "world_facts"),
)


@dataclass(frozen=True)
class Stage:
    """What a stage writes, relative to the run folder, and the work that writes it."""

    outputs: list[str]
    work: Callable[[], None]


class State:
    """`interrupted`: whether the stage at work had been begun before and not ended."""

    def __init__(self, recipe: Recipe, folder: RunDir, data: DataSet):
        self.recipe = recipe
        self.folder = folder
        self.data = data
        self.models = ModelSet.of_run(recipe, folder.path)
        self.interrupted = False

    @property
    def method(self) -> Method:
        return METHODS.get(self.recipe.unlearn.method)

    @property
    def parts(self) -> list[tuple[str, str, str]]:
        return [part for part in PARTS if self.records(part[0])]

    def records(self, name: str) -> Sequence[Record]:
        if name == "retain" and not self.data.retain:
            return self._neighbours
        if name == "wordings":
            return self._wordings
        return getattr(self.data, name)

    @property
    def _wordings(self) -> list[Record]:
        """The questions to forget in other words."""
        path = self.folder / "wordings.jsonl"
        written = {row["record_id"]: row["questions"] for row in read_jsonl(path)} if path.exists() else {}
        return wording_records(self.data.forget, written)

    @property
    def _neighbours(self) -> tuple[Record, ...]:
        """What the start model itself said about the subjects, standing in for a retain set."""
        path = self.folder / "neighbours.jsonl"
        return tuple(Record(**row) for row in read_jsonl(path)) if path.exists() else ()

    def answer_files_by_part(self) -> list[list[Path]]:
        """For every part the files of what the models said to the same questions."""
        return [[self.folder / f"{when}/{name}.jsonl" for when in ("before", "after")] for name, _, _ in self.parts]

    def entity_completer(self) -> Any:
        if self.recipe.metrics.entities == "spacy":
            return None
        return make_completer(self.recipe.synthesis.generator, self.recipe.synthesis, self.folder / "cache.sqlite")

    def log(self, stage: str) -> Callable[..., None]:
        return lambda **row: self.folder.log(stage=stage, **row)
