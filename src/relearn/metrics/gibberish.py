"""Share of answers that are empty or repeat themselves: what KFR takes for forgetting and is none.

A deliberately small check, without a model: it finds silence, signs without words, and loops ("at at at"); fluent
nonsense it does not find.
"""

from __future__ import annotations

from relearn.metrics.base import METRICS, Context, Metric
from relearn.metrics.measurement import Measurement
from relearn.text.tokenise import words

DISTINCT = 0.5


def is_gibberish(text: str) -> bool:
    """No letter or digit at all, or fewer than half of the three-token sequences differ from each other."""
    if not any(character.isalnum() for character in text):
        return True
    tokens = words(text)
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return bool(triples) and len(set(triples)) / len(triples) < DISTINCT


def _measure(context: Context) -> Measurement:
    return context.mean([float(is_gibberish(row.response)) for row in context.rows], "empty or repeating answers")


METRICS.add(
    "gibberish",
    Metric("gibberish", "Empty or repeating answers", "relearn", {"forget": "lower", "retain": "lower"}, _measure),
)
