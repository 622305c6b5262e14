"""Detect gibberish answers, which KFR counts as forgotten: the metric `gibberish`.

An answer is gibberish when it is
    empty      without a letter or digit;
    looping    its word triples repeat: 2^H / T < 0.5, with H the entropy in bits of the T triples (characters if words
               are very long or the script has no spaces);
    salad      its words are in random order (word_salad.py) or run together; only English text is examined;
    surprising its perplexity under the base model is far above that of any language.
The perplexity is that of LS, under the model before any fine-tuning, so it does not depend on memorised text. An answer
with the perplexity of prose is never salad. Thresholds and their data: docs/metrics.md, "Gibberish".
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
from relearn.metrics.metric import Measurement, metric
from relearn.metrics.word_salad import is_glued, word_order

GibberishKind = Literal["empty", "looping", "salad", "surprising"]
KINDS: tuple[GibberishKind, ...] = ("empty", "looping", "salad", "surprising")
DISTINCT = 0.5
ORDER = 0.4
PROSE_PPL, BABBLE_PPL = 40.0, 1000.0
# With fewer tokens a single name decides the perplexity.
MIN_TOKENS = 8
_MAX_WORD_LENGTH = 15


def gibberish_kind(text: str, logprobs: Sequence[float] | None = None) -> GibberishKind | None:
    """Classify a text as the first of KINDS that applies; None if it is not gibberish.

    logprobs: (tokens,) of the text under the base model, or None if not measured.
    """
    if not any(character.isalnum() for character in text):
        return "empty"
    if distinct_share(_units(text)) < DISTINCT:
        return "looping"
    ppl = perplexity(logprobs) if logprobs is not None and len(logprobs) >= MIN_TOKENS else None
    if (ppl is None or ppl > PROSE_PPL) and _is_salad(text):
        return "salad"
    return "surprising" if ppl is not None and ppl > BABBLE_PPL else None


def distinct_share(units: Sequence[str]) -> float:
    """Compute 2^H / T of the T triples of `units`: 1 if all differ or there are none, 1/T if all are equal."""
    triples = Counter(zip(units, units[1:], units[2:], strict=False))
    total = sum(triples.values())
    if not total:
        return 1.0
    entropy = -sum(count / total * math.log2(count / total) for count in triples.values())
    return 2**entropy / total


def _units(text: str) -> Sequence[str]:
    """Split a text into words, or into characters if words are too long (a loop without spaces, 's's's)."""
    tokens = words(text)
    if sum(map(len, tokens)) <= _MAX_WORD_LENGTH * len(tokens):
        return [unit for token in tokens for unit in (token if _too_long(token) else (token,))]
    return "".join(text.split())


def _too_long(token: str) -> bool:
    """Return True if a token is too long for a word and not a line of punctuation marks."""
    return len(token) > _MAX_WORD_LENGTH and any(map(str.isalnum, token))


@lru_cache(maxsize=1 << 14)
def _is_salad(text: str) -> bool:
    gain = word_order(text)
    return (gain is not None and gain < ORDER) or is_glued(text)


def row_gibberish(row: AnswerRow) -> GibberishKind | None:
    return gibberish_kind(row.response, row.response_logprobs)


@metric(
    "gibberish",
    label="Gibberish",
    description="share of empty, looping or garbled answers, which KFR would count as forgotten",
    source="relearn",
    better={"forget": "lower", "retain": "lower"},
    order=70,
    shown_in=("chart", "summary"),
)
def gibberish(context: Context) -> Measurement:
    kinds = [row_gibberish(row) for row in context]
    counts = Counter(kind for kind in kinds if kind is not None)
    seen = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if counts[kind])
    measured = any(row.response_logprobs for row in context)
    basis = "by words and base perplexity" if measured else "by words alone"
    return context.bounded_mean([float(kind is not None) for kind in kinds], f"{basis}: {seen}" if seen else basis)
