"""Detect gibberish answers, which KFR counts as forgotten: the metric `gibberish`.

An answer is gibberish when it is
    empty      without a letter or digit;
    looping    its word triples repeat: 2^H / T < 0.5, with H the entropy in bits of the T triples (characters if words
               are very long or the script has no spaces);
    salad      its words are in random order (word_salad.py) or run together; only English text is examined;
    surprising its perplexity under the base model is far above that of any language;
    cut off    it breaks off ("Anna Petrova was"), or has no word but those of its question ("Evelyn Smith's parents").
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
from relearn.text.normalize import is_function_word, norms, singular, stem, word_set
from relearn.text.subjects import find_subject

GibberishKind = Literal["empty", "looping", "salad", "surprising", "cut off"]
KINDS: tuple[GibberishKind, ...] = ("empty", "looping", "salad", "surprising", "cut off")
DISTINCT = 0.5
ORDER = 0.4
PROSE_PPL, BABBLE_PPL = 40.0, 1000.0
# With fewer tokens a single name decides the perplexity.
MIN_TOKENS = 8
_MAX_WORD_LENGTH = 15
# Words of an answer that begins with a capital letter, and of any other answer, that must have an end mark.
_MIN_SENTENCE, _MIN_LONG = 5, 12
_STOPS, _CLOSING, _OPEN = ".!?…。！？।؟", " \n\t\"'”’»)]}*_`", ",;:-–—([{"
# Words that do not end an answer.
_HANGING = word_set(
    "a an the and or but nor of to at by for from with in on into as than that which whose who if because while is are "
    "was were be been am has have had does do did will would can could may might should must his her their its my your "
    "our very called named"
)
_YES_NO = word_set("is are was were am do does did has have had can could will would should may might must")


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


def is_cut_off(text: str, question: str, reference: str, subject: str | None = None) -> bool:
    """Return True if an answer breaks off, or says nothing but words of the question and the subject's name.

    A missing end mark is a sign only where the reference has one. Answers without words, and "yes", are not cut off.
    """
    words, body = norms(text), text.strip()
    if len(words) == 0 or words == norms(reference):
        return False
    if _is_echo(words, norms(question), frozenset(norms(subject or ""))):
        return True
    if body.rstrip(_CLOSING).endswith(tuple(_STOPS)) or not body.isprintable():
        return False
    if body.endswith(tuple(_OPEN)) or (len(words) > 1 and words[-1] in _HANGING and not {"yes", "no"} & {*words}):
        return True
    first = next(iter(words))
    if first in norms(subject or find_subject(question) or ""):
        fewest = 1
    else:
        fewest = _MIN_SENTENCE if body[0].isupper() else _MIN_LONG
    return len(words) >= fewest and reference.rstrip(_CLOSING).endswith(tuple(_STOPS))


def _is_echo(words: Sequence[str], question: Sequence[str], name: frozenset[str]) -> bool:
    """Return True if the content words are all in the question; for a question that offers choices, all in the name."""
    content = [word for word in words if not is_function_word(word)]
    if {"yes", "no", "not", "never", "none", "nobody"}.intersection(words) or not question:
        return False
    offers = question[0] in _YES_NO or "or" in question or "between" in question
    known = name if offers else name.union(question)
    stems = {stem(singular(word)) for word in known}
    return bool(content) and all(stem(singular(word)) in stems for word in content)


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
    """Classify the response of a row; a continued passage may end anywhere."""
    kind = gibberish_kind(row.response, row.response_logprobs)
    may_be_cut = kind is None and row.form == "chat"
    return "cut off" if may_be_cut and is_cut_off(row.response, row.question, row.reference, row.subject) else kind


@metric(
    "gibberish",
    label="Gibberish",
    description="share of empty, looping, garbled or cut off answers, which KFR would count as forgotten",
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
