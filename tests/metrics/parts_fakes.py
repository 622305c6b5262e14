"""Parts of a run for tests: rows with log-probabilities, scored together without judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metric_fakes import fake_judges

from relearn.core import config
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.metric import Measurement, ScoredSplit
from relearn.metrics.score import score_parts

CASES = Path(__file__).resolve().parent.parent / "cases"
SPLITS: dict[str, ScoredSplit] = {"forget": "forget", "forget_heldout": "forget", "holdout": "holdout"}


def cases(name: str) -> Any:
    return json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))


def rows_of(values: list[dict[str, Any]]) -> list[AnswerRow]:
    """Rows named by their place; what is not given is a question, a reference and an answer of two words."""
    plain = {"question": "Where to?", "reference": "Oslo harbour", "response": "Oslo harbour"}
    return [AnswerRow.from_dict({"id": str(at), **plain, **value}) for at, value in enumerate(values)]


def measured(
    parts: dict[str, list[dict[str, Any]]], names=None, reference=None, **settings
) -> dict[str, dict[str, Measurement]]:
    """part -> metric -> measurement; parts that are no forget or holdout set are retain ones."""
    given: dict[str, tuple[ScoredSplit, list[AnswerRow]]] = {
        part: (SPLITS.get(part, "retain"), rows_of(values)) for part, values in parts.items()
    }
    chosen = config.Metrics.model_validate({"bootstrap": 50, **settings})
    found = score_parts(given, chosen, judges=fake_judges(), names=names, reference=reference)
    return {part: dict(scored.measurements) for part, scored in found.items()}
