"""Compute the lexical indices of an answer: word counts, perplexity, Brunet's index, Honoré's statistic, and LS.

    PPL = exp(-mean log-probability of the response's tokens under the model before any fine-tuning)
    BI  = N ^ (V ^ -0.165)                                   lower is richer
    HS  = 100 ln N / (1 - V1/V + 0.1), at most 1e6, 0 if N <= 1     higher is richer
    LS  = harmonic mean of s(-ln PPL), s(-ln BI), s(ln HS),  s = sigmoid          (arXiv 2502.11190, equations 3 to 5)

N: number of tokens, V: of different tokens, V1: of tokens that occur once. s(-ln x) = 1/(1+x), so
LS = 3 / (3 + PPL + BI + 1/HS), at most 0.6.

Words are tokenised as in NLTK's `word_tokenize`, which splits sentences with punkt, a model to download. Here a rule
replaces punkt: . ! ? end a sentence before white space and a character that can begin a sentence, unless the stop is
part of an abbreviation or an initial. Differences from punkt: an abbreviation never ends a sentence ("He lives in the
U.S. She ..."), and an abbreviation outside the list below ends a sentence before a capital letter.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from relearn.metrics.answer_row import AnswerRow

FloatOrArray = float | np.ndarray
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """
        mr mrs ms dr prof sr jr st rev gen col capt lt sgt hon gov sen rep pres mt ft ave blvd rd apt no nos vol vs etc
        al e.g i.e cf ca approx inc ltd co corp dept univ assn bros est fig p pp ed eds
        jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun
        """,
    )
)
_END = re.compile(r"""([.!?]+)(["'”’)\]}»]*)\s+(?=["'“‘(\[{«¿¡]*[^\sa-z])""")
_LAST_WORD = re.compile(r"(\S+)$")
_INITIALS = re.compile(r"^(?:[^\W\d_]\.)*[^\W\d_]$")
_WIDE_END = re.compile(r"(?<=[。！？])\s*(?=\S)")


def sentences(text: str) -> list[str]:
    """Split `text` into sentences, in order, without the white space around them."""
    found: list[str] = []
    start = 0
    for match in _END.finditer(text):
        if not _ends_sentence(text[start : match.start()], match.group(1)):
            continue
        found.append(text[start : match.end()])
        start = match.end()
    found.append(text[start:])
    return [piece.strip() for part in found for piece in _WIDE_END.split(part) if piece.strip()]


def _ends_sentence(before: str, stop: str) -> bool:
    if stop != ".":
        return True
    word = _LAST_WORD.search(before)
    if word is None:
        return False
    last = word.group(1).lstrip("\"'“‘([{«")
    return last.lower() not in _ABBREVIATIONS and not _INITIALS.match(last)


def words(text: str) -> list[str]:
    """Split `text` into lower-cased tokens like `word_tokenize(text.lower())`, except for the sentence rule above."""
    tokeniser = _treebank()
    return [token for sentence in sentences(text) for token in tokeniser.tokenize(sentence.lower())]


@cache
def _treebank():
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()


HS_CAP = 1e6
PPL_CAP = 1e30
# The index of an empty answer, a very poor value, as in the paper's public code.
EMPTY_BI = 1000.0


@dataclass(frozen=True)
class LexicalCounts:
    """Hold token counts of one answer, and compute its indices.

    n: tokens; v: types; v1: types that occur once; ppl: perplexity, None without log-probabilities.
    """

    n: int
    v: int
    v1: int
    ppl: float | None

    @property
    def bi(self) -> float:
        return brunet(self.n, self.v)

    @property
    def hs(self) -> float:
        return honore(self.n, self.v, self.v1)

    @property
    def ls(self) -> float | None:
        """Compute LS; 0 for an answer without words, None for other answers without perplexity."""
        if self.n == 0:
            return 0.0
        return None if self.ppl is None else float(linguistic_score(self.ppl, self.bi, self.hs))


def lexical_counts(row: AnswerRow) -> LexicalCounts:
    counts = Counter(words(row.response))
    once = sum(count == 1 for count in counts.values())
    return LexicalCounts(counts.total(), len(counts), once, perplexity(row.response_logprobs))


def perplexity(logprobs: Sequence[float] | None) -> float | None:
    """Compute the perplexity exp(-mean), at most 1e30 (finite sums); None without tokens or for a nan mean."""
    if not logprobs:
        return None
    mean = sum(logprobs) / len(logprobs)
    if math.isnan(mean):
        return None
    return math.exp(min(-mean, math.log(PPL_CAP)))


def brunet(n: int, v: int) -> float:
    return EMPTY_BI if n == 0 else n ** (v**-0.165)


def honore(n: int, v: int, v1: int) -> float:
    if n <= 1:
        return 0.0
    return min(100 * math.log(n) / (1 - v1 / v + 0.1), HS_CAP)


def linguistic_score(ppl: FloatOrArray, bi: FloatOrArray, hs: FloatOrArray) -> np.ndarray:
    """Compute LS elementwise, in closed form; 0 if Honoré's statistic is 0."""
    return np.where(np.greater(hs, 0), 3 / (3 + ppl + bi + 1 / np.where(np.greater(hs, 0), hs, 1.0)), 0.0)
