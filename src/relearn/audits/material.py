"""What attacks are made of: the facts that were to be forgotten, what was to be kept, and ways to word a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relearn.core.config import Lora, Recipe
from relearn.data import Record


@dataclass(frozen=True)
class Material:
    """`facts` were to be forgotten; `kept` were not; `generic` belongs to neither.

    `wordings`: record id -> other wordings of its question. `templates`: name -> jailbreak text with PROMPT in it.
    `holdout`: like the facts, but no model was trained on them.
    """

    facts: Sequence[Record]
    kept: Sequence[Record]
    generic: Sequence[Record]
    wordings: Mapping[str, Sequence[str]]
    recipe: Recipe
    folder: Path
    templates: Mapping[str, str] = field(default_factory=dict)
    samples: int = 8
    seed: int = 0
    holdout: Sequence[Record] = ()

    @property
    def lora(self) -> Lora:
        return self.recipe.unlearn.lora

    def about_the_same(self, record: Record) -> list[Record]:
        """Kept records on the subject of `record`."""
        return [other for other in self.kept if record.subject and other.subject == record.subject]
