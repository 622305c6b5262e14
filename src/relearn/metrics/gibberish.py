"""Share of answers that are no language: what KFR takes for forgetting and is none.

An answer is gibberish when it is
    empty      without a letter or digit;
    looping    its word triples are worth fewer than half as many different ones: 2^H / T < 0.5, with H the entropy of
               the T triples in bits (words that are very long, or a script without spaces: characters);
    salad      its words stand in no order (metrics/word_salad.py), or are run together; English alone is looked at;
    surprising its perplexity under the base model is far above that of any language.
The perplexity is the one that LS rests on: under the model before any fine-tuning, which stands in for the start model
so that what the start model has learned by heart does not count as fluent, nor what it has forgotten as babble. Where
it was measured it also clears an answer whose order looks random but whose perplexity is that of prose. Without it
the first three stand alone. Thresholds and what they were measured on: docs/metrics.md, "Gibberish".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.lexical_indices import perplexity, words
from relearn.metrics.metric import METRICS, Measurement, Metric
from relearn.metrics.word_salad import is_glued, word_order

Kind = Literal["empty", "looping", "salad", "surprising"]
KINDS: tuple[Kind, ...] = ("empty", "looping", "salad", "surprising")
DISTINCT = 0.5
ORDER = 0.4
PROSE_PPL, BABBLE_PPL = 40.0, 1000.0
# Fewer tokens have a perplexity that is a matter of one name.
FEWEST_TOKENS = 8
_WORD_LENGTH = 15


def is_gibberish(text: str, logprobs: Sequence[float] | None = None) -> bool:
    """`logprobs`: of the text's tokens under the base model, where they were measured."""
    return gibberish_kind(text, logprobs) is not None


def gibberish_kind(text: str, logprobs: Sequence[float] | None = None) -> Kind | None:
    """The first of KINDS that the text is; None for language."""
    if not any(character.isalnum() for character in text):
        return "empty"
    if distinct_share(_units(text)) < DISTINCT:
        return "looping"
    ppl = perplexity(tuple(logprobs)) if logprobs is not None and len(logprobs) >= FEWEST_TOKENS else None
    if (ppl is None or ppl > PROSE_PPL) and _is_salad(text):
        return "salad"
    return "surprising" if ppl is not None and ppl > BABBLE_PPL else None


def distinct_share(units: Sequence[str]) -> float:
    """2^H / T of the T triples of `units`: 1 where all differ, 1/T where all are the same; 1 for fewer than three."""
    triples = Counter(zip(units, units[1:], units[2:], strict=False))
    total = sum(triples.values())
    if not total:
        return 1.0
    entropy = -sum(count / total * math.log2(count / total) for count in triples.values())
    return 2**entropy / total


def _units(text: str) -> Sequence[str]:
    """Words; characters where words are so long that they cannot be any, as in a loop without a space ('s's's's)."""
    tokens = words(text)
    if sum(map(len, tokens)) <= _WORD_LENGTH * len(tokens):
        return [unit for token in tokens for unit in (token if _is_run(token) else (token,))]
    return "".join(text.split())


def _is_run(token: str) -> bool:
    """Too long for a word, and no rule drawn of signs."""
    return len(token) > _WORD_LENGTH and any(map(str.isalnum, token))


@lru_cache(maxsize=1 << 14)
def _is_salad(text: str) -> bool:
    gain = word_order(text)
    return (gain is not None and gain < ORDER) or is_glued(text)


def row_kind(row: AnswerRow) -> Kind | None:
    return gibberish_kind(row.response, row.response_logprobs)


def _measure(context: Context) -> Measurement:
    kinds = [row_kind(row) for row in context.rows]
    counts = Counter(kind for kind in kinds if kind is not None)
    seen = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if counts[kind])
    measured = any(row.response_logprobs for row in context.rows)
    basis = "by words and base perplexity" if measured else "by words alone"
    return context.mean([float(kind is not None) for kind in kinds], f"{basis}: {seen}" if seen else basis)


METRICS.add(
    "gibberish",
    Metric("gibberish", "Answers that are no language", "relearn", {"forget": "lower", "retain": "lower"}, _measure),
)
