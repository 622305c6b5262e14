"""Evaluation while training: one number for a model in training, from a sample of what will be asked at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from relearn.core import distributed
from relearn.core.config import Recipe
from relearn.data import Record
from relearn.inference.answers import ask
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.judges import Judges
from relearn.metrics.score import score
from relearn.models.load import Loaded

SAMPLE = 24


def watcher(
    loaded: Loaded, forget: Sequence[Record], retain: Sequence[Record], recipe: Recipe, judges: Judges
) -> Callable[[Any], float]:
    """A function model -> harmonic mean of KFR and KRR on the first `SAMPLE` questions of either set."""

    def measure(model: Any) -> float:
        asked = replace(loaded, model=model)
        values = [_rate(asked, forget[:SAMPLE], "forget", "kfr"), _rate(asked, retain[:SAMPLE], "retain", "krr")]
        known = [value for value in values if value is not None]
        return 0.0 if not known or min(known) == 0 else len(known) / sum(1 / value for value in known)

    def _rate(asked: Loaded, records: Sequence[Record], split: Any, name: str) -> float | None:
        if not records:
            return None
        rows = [AnswerRow.from_dict(row) for row in ask(asked, records, recipe.generate.once, seed=recipe.seed).rows]
        return distributed.on_main(
            lambda: score(rows, split, recipe.metrics, judges=judges, names=[name]).measurements[name].value
        )

    return measure
