"""Answers in, every number of their split out: what the stages before/ and after/ of a run write down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relearn import config
from relearn.errors import InputError
from relearn.metrics.answers import AnswerRow
from relearn.metrics.base import METRICS, Context, Split
from relearn.metrics.coverage import Coverage
from relearn.metrics.entailment import Verdict
from relearn.metrics.judges import Judges, make_judges
from relearn.metrics.knowledge import forgotten, kept
from relearn.metrics.measurement import Measurement

__all__ = ["Judges", "SplitScores", "make_judges", "metrics_of", "score", "scores", "summary"]


@dataclass(frozen=True)
class SplitScores:
    """`measurements` by metric name; `items` by row id: what KFR or KRR rests on, empty when not asked for."""

    measurements: Mapping[str, Measurement]
    items: Mapping[str, Mapping[str, Any]]

    def summary(self) -> dict[str, Any]:
        """Values, intervals and counts, free of texts."""
        return {name: measured.to_dict() for name, measured in self.measurements.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything, each item's value and entities included."""
        measured = {name: value.to_dict(per_record=True) for name, value in self.measurements.items()}
        return {"metrics": measured, "items": {key: dict(item) for key, item in self.items.items()}}


def metrics_of(split: Split) -> list[str]:
    """The names of the metrics that apply to a split, in order."""
    return [name for name in METRICS if split in METRICS.get(name).better]


def score(
    rows: Sequence[AnswerRow],
    split: Split,
    settings: config.Metrics,
    *,
    judges: Judges,
    seed: int = 0,
    names: Iterable[str] | None = None,
) -> SplitScores:
    """Measure `names` (all that apply to the split when None) on the answers of one model to one split's questions.

    Raises InputError for ids that are not unique (results are kept by id, never matched by text) and for a metric that
    does not apply to the split.
    """
    twice = [key for key, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise InputError(f"the id {twice[0]!r} stands on several rows", where=f"{split} answers")
    chosen = metrics_of(split) if names is None else list(names)
    for name in chosen:
        if split not in METRICS.get(name).better:
            raise InputError(f"metric {name!r} does not apply to the {split} set")
    context = Context(rows, split, settings, judges, seed)
    measurements = {name: METRICS.get(name).measure(context) for name in chosen}
    judged = any("entities" in METRICS.get(name).needs for name in chosen)
    return SplitScores(measurements, _items(context) if judged else {})


def _items(context: Context) -> dict[str, dict[str, Any]]:
    key, decide = ("forgotten", forgotten) if context.split == "forget" else ("kept", kept)
    return {
        row.id: {**_evidence(coverage, verdict), key: decide(coverage, verdict, context.settings)}
        for row, coverage, verdict in zip(context.rows, context.coverage, context.verdicts, strict=True)
    }


def _evidence(coverage: Coverage | None, verdict: Verdict | None) -> dict[str, Any]:
    return {
        "coverage": coverage.value if coverage else None,
        "reference_entities": list(coverage.reference) if coverage else None,
        "matched": list(coverage.matched) if coverage else None,
        "entailment": verdict.label if verdict else None,
    }


def summary(parts: Mapping[str, SplitScores]) -> dict[str, Any]:
    """`parts` (forget, retain, forget_heldout, retain_heldout) of one model as summary.json has them."""
    return {part: measured.summary() for part, measured in parts.items()}


def scores(parts: Mapping[str, SplitScores]) -> dict[str, Any]:
    """`parts` of one model as scores.json has them, with the value and the evidence of each item."""
    return {part: measured.to_dict() for part, measured in parts.items()}
