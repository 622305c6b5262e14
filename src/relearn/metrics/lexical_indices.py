"""What an answer is as language: counts of its words, perplexity, Brunet's index, Honoré's statistic, and their score.

    PPL = exp(-mean log-probability of the response's tokens under the model before any fine-tuning)
    BI  = N ^ (V ^ -0.165)                                   lower is richer
    HS  = 100 ln N / (1 - V1/V + 0.1), at most 1e6, 0 if N <= 1     higher is richer
    LS  = harmonic mean of s(-ln PPL), s(-ln BI), s(ln HS),  s = sigmoid          (arXiv 2502.11190, equations 3 to 5)

N tokens, V different ones, V1 that occur once. Since s(-ln x) = 1/(1+x), LS = 3 / (3 + PPL + BI + 1/HS): at most 0.6.

Words as NLTK's `word_tokenize` counts them, without the data it downloads.

`word_tokenize` splits sentences first (punkt, a trained model that has to be downloaded) and then applies the Treebank
rules to each sentence. The rules separate a full stop only at the end of what they are given, so without the split
"Paris." inside a text of two sentences would stay one token. Here a rule stands in for punkt: a run of . ! ? ends a
sentence when white space and something that can begin a sentence follow, unless the stop belongs to an abbreviation or
an initial. Deviations from punkt: an abbreviation that happens to end a sentence does not end it ("He lives in the U.S.
She ...": punkt decides by its training), and abbreviations outside the list below end one before a capital letter.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache

from relearn.metrics.answer_row import AnswerRow

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
    """The sentences of `text`, in order, without the white space around them."""
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
    """Lower-cased tokens of `text`, as `word_tokenize(text.lower())` gives them but for the sentence rule above."""
    tokeniser = _treebank()
    return [token for sentence in sentences(text) for token in tokeniser.tokenize(sentence.lower())]


@cache
def _treebank():
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()


HS_CAP = 1e6
PPL_CAP = 1e30
# An empty answer has no index of its own; as in the paper's public code it counts as a very poor one.
EMPTY_BI = 1000.0


@dataclass(frozen=True)
class Language:
    """`n` tokens, `v` types, `v1` types seen once; `ppl` is None where no log-probability was measured."""

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
        """An answer without words scores 0, measured or not; otherwise no perplexity means no score."""
        if self.n == 0:
            return 0.0
        return None if self.ppl is None else linguistic_score(self.ppl, self.bi, self.hs)


def language_of(row: AnswerRow) -> Language:
    tokens = words(row.response)
    counts: dict[str, int] = {}
    for token in tokens:
        counts[token] = counts.get(token, 0) + 1
    once = sum(count == 1 for count in counts.values())
    return Language(len(tokens), len(counts), once, perplexity(row.response_logprobs))


def perplexity(logprobs: tuple[float, ...] | None) -> float | None:
    """exp(-mean), at most 1e30 so that sums stay finite; None for what was not measured, is no number, or is empty."""
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


def linguistic_score(ppl: float, bi: float, hs: float) -> float:
    """The closed form of the harmonic mean of the three sigmoids; 0 where Honoré's statistic is 0."""
    return 0.0 if hs <= 0 else 3 / (3 + ppl + bi + 1 / hs)
