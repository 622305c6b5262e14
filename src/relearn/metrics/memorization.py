"""Measure memorisation of the reference answer: token hits, probability, and ROUGE-L overlap of the response.

Token hits (OpenUnlearning, arXiv 2506.12618). A hit is a reference token that the model predicts as the likeliest;
end-of-turn tokens are left out.

    exact memorisation   EM = share of hits
    extraction strength  ES = 1 - k / |y|,  k = length of the shortest prefix after which every token is a hit

Probability (TOFU, arXiv 2401.06121), with end-of-turn tokens. Texts without tokens are unscored.

    P(a | q) = exp(mean log-probability of the answer's tokens)
    probability_options = P(a) / (P(a) + sum of P(wrong)) among wrong answers of the same form

ROUGE-L: longest common subsequence of words. `rouge_l` is recall with stemming, and on ASCII text equal to the
rouge_score package. That package drops other letters; here they are kept (one character of Chinese or Japanese is a
word). MUSE's VerbMem and KnowMem (arXiv 2407.06460) are ROUGE-L F without stemming, of continuations (rows of form
"text") and of answers to questions about the texts. A continuation longer than the reference has a lower precision, so
set `generate.max_new_tokens` to about the length of the reference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.metric import Better, Measurement, ScoredSplit, metric

OPENUNLEARNING, TOFU, MUSE = "arXiv 2506.12618", "arXiv 2401.06121", "arXiv 2407.06460"
BETTER: Mapping[ScoredSplit, Better] = {"forget": "lower", "retain": "higher"}
NO_HITS = "not measured which token was likeliest"
NO_LOGPROBS = "no log-probabilities of the reference"
NO_WRONG_ANSWERS = "no wrong answers to set it against"
_reference_metric = partial(metric, better=BETTER, needs=["reference"])


@_reference_metric(
    "exact_memorisation",
    label="Exact memorisation",
    description="share of the reference's tokens that are the model's likeliest",
    source=OPENUNLEARNING,
    order=170,
    unscored=NO_HITS,
)
def _exact_memorisation(rows: Sequence[AnswerRow]) -> list[float | None]:
    return [exact_memorisation(answer_hits(row)) for row in rows]


@_reference_metric(
    "extraction_strength",
    label="Extraction strength",
    description="share of the reference that the model goes on with by itself once it has begun",
    source=OPENUNLEARNING,
    order=160,
    unscored=NO_HITS,
)
def _extraction_strength(rows: Sequence[AnswerRow]) -> list[float | None]:
    return [extraction_strength(answer_hits(row)) for row in rows]


def exact_memorisation(hits: Sequence[bool]) -> float | None:
    """Compute the share of hits; None without tokens."""
    return sum(map(bool, hits)) / len(hits) if hits else None


def extraction_strength(hits: Sequence[bool]) -> float | None:
    """Compute the share of the answer that follows its last miss; None without tokens."""
    if not hits:
        return None
    last_miss = max((index for index, hit in enumerate(hits) if not hit), default=-1)
    return (len(hits) - 1 - last_miss) / len(hits)


def answer_hits(row: AnswerRow) -> Sequence[bool]:
    """Return the hits at the reference tokens without the end-of-turn tokens; empty if not measured."""
    hits = row.reference_hits or ()
    return hits[: max(0, len(hits) - row.closing_tokens)]


def has_wrong_answers(rows: Sequence[AnswerRow], _: Sequence[AnswerRow]) -> bool:
    return any(row.perturbed_logprobs is not None for row in rows)


@_reference_metric(
    "probability",
    label="Probability",
    description="probability of the reference, mean over its tokens",
    source=TOFU,
    order=230,
    unscored=NO_LOGPROBS,
)
def _probability(rows: Sequence[AnswerRow]) -> list[float | None]:
    return [probability(row.reference_logprobs) for row in rows]


@_reference_metric(
    "probability_options",
    label="Probability among wrong answers",
    description="the same among wrong answers",
    source=TOFU,
    order=240,
    unscored=f"{NO_LOGPROBS}, or {NO_WRONG_ANSWERS}",
    applies=has_wrong_answers,
)
def _probability_options(rows: Sequence[AnswerRow]) -> list[float | None]:
    return [option_probability(row.reference_logprobs, row.perturbed_logprobs) for row in rows]


def mean_logprob(logprobs: Sequence[float] | None) -> float | None:
    """Compute the mean log-probability; -inf if a token is impossible, None without tokens or for a nan mean."""
    if not logprobs:
        return None
    mean = math.fsum(logprobs) / len(logprobs) if -math.inf not in logprobs else -math.inf
    return None if math.isnan(mean) else mean


def probability(logprobs: Sequence[float] | None) -> float | None:
    """Compute P^(1/|a|), the geometric mean of the tokens' probabilities, in [0, 1]."""
    mean = mean_logprob(logprobs)
    return None if mean is None else math.exp(mean)


def option_probability(answer: Sequence[float] | None, wrong: Sequence[Sequence[float]] | None) -> float | None:
    """Compute the answer's share of the probability of all options; None without tokens in it or in the wrong ones."""
    own = mean_logprob(answer)
    others = [mean for logprobs in wrong or () if (mean := mean_logprob(logprobs)) is not None]
    if own is None or not others or max(own, *others) == -math.inf:
        return None
    return 1 / math.fsum(math.exp(min(other - own, 700)) for other in (own, *others)) if own > -math.inf else 0.0


WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


class _RougeTokenizer:
    """Split a text into lower-cased words; `stem`: stem words of more than three letters, as rouge_score does."""

    def __init__(self, stem: bool) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stem = cache(PorterStemmer().stem) if stem else None

    def tokenize(self, text: str) -> list[str]:
        words = WORD.findall(text.lower())
        return [self._stem(word) if len(word) > 3 else word for word in words] if self._stem else words


@cache
def _rouge_scorer(stem: bool):
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_RougeTokenizer(stem))


def rouge_l_recall(row: AnswerRow) -> float | None:
    """Compute ROUGE-L recall with stemming; 0 for an empty answer, None if the reference has no word."""
    if not WORD.search(row.reference):
        return None
    return float(_rouge_scorer(True).score(row.reference, row.response)["rougeL"].recall)


def rouge_l_f(row: AnswerRow) -> float | None:
    """Compute ROUGE-L F without stemming; 0 for an empty answer, None if the reference has no word."""
    if not WORD.search(row.reference):
        return None
    return float(_rouge_scorer(False).score(row.reference, row.response)["rougeL"].fmeasure)


@metric(
    "rouge_l",
    label="ROUGE-L",
    description="share of the reference's words found in the answer, in order",
    source="Lin 2004",
    better=BETTER,
    order=30,
    unscored="no word in the reference",
    shown_in=("chart", "summary"),
)
def rouge_l(rows: Sequence[AnswerRow]) -> list[float | None]:
    return [rouge_l_recall(row) for row in rows]


@metric(
    "verbmem",
    label="VerbMem",
    description="how much of a passage the model writes on by itself, 0 to 1",
    source=MUSE,
    better=BETTER,
    order=180,
    applies=lambda rows, _: any(row.form == "text" for row in rows),
)
def verbmem(context: Context) -> Measurement:
    return _rouge_l_f_of(context, "text", "a question, not a passage, or a passage without words")


def _asks_about_texts(rows: Sequence[AnswerRow], all_rows: Sequence[AnswerRow]) -> bool:
    return any(row.form == "chat" for row in rows) and any(row.form == "text" for row in all_rows)


@metric(
    "knowmem",
    label="KnowMem",
    description="how far answers about the passages are the true ones, 0 to 1",
    source=MUSE,
    better=BETTER,
    order=190,
    applies=_asks_about_texts,
)
def knowmem(context: Context) -> Measurement:
    return _rouge_l_f_of(context, "chat", "a passage, not a question, or an answer without words")


def _rouge_l_f_of(context: Context, form: str, why: str) -> Measurement:
    values = [rouge_l_f(row) if row.form == form else None for row in context]
    return context.bounded_mean(values, "ROUGE-L F, not stemmed", why)
