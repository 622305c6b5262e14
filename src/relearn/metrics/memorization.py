"""How much of the reference the model would say by itself, token by token (OpenUnlearning, arXiv 2506.12618).

    exact memorisation   EM = share of hits among the tokens
    extraction strength  ES = 1 - k / |y|,  k = length of the shortest beginning after which every token is a hit

A hit is a token of the reference that was the likeliest of all. k = |y| where even the last is a miss, so ES reaches 0;
k = 0, ES = 1 where the question alone brings the whole answer. The tokens that close the turn belong to the template
and not to the answer: they are left out.

How likely the model finds the reference answer (TOFU, arXiv 2401.06121).

    P(a | q) = exp(mean log-probability of the answer's tokens), the end of turn included

`probability_options` sets it against wrong answers of like form: P(a) / (P(a) + sum of P(wrong)), which is how TOFU
asks about real authors and world facts. A text without tokens has no probability and is unscored.

ROUGE-L recall, stemmed: the longest common subsequence of reference and answer over the reference's length.

Computed by the rouge_score package. On ASCII text its numbers are the package's own; its tokeniser drops every other
letter, so answers in other scripts would score 0, and ours keeps them (Chinese and Japanese character by character).

What is left of a text: MUSE's verbatim and knowledge memorisation (arXiv 2407.06460).

    VerbMem = mean ROUGE-L F of (how the model goes on, how the text goes on)     rows of form "text"
    KnowMem = mean ROUGE-L F of (the model's answer, the true answer)             questions about the texts

F is the harmonic mean of precision and recall of the longest common subsequence of words, not stemmed, as MUSE has it.
A continuation longer than the text's own loses precision: let the model write about as many tokens as the text goes on
for (`generate.max_new_tokens`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.metric import METRICS, Better, Measurement, Metric, Split

SOURCE = "arXiv 2506.12618"
MISSING = "not measured which token was likeliest"


def exact_memorisation(hits: Sequence[bool]) -> float | None:
    """The share of hits; None without tokens."""
    return sum(map(bool, hits)) / len(hits) if hits else None


def extraction_strength(hits: Sequence[bool]) -> float | None:
    """The share of the answer that follows its last miss; None without tokens."""
    if not hits:
        return None
    said = 0
    for hit in reversed(hits):
        if not hit:
            break
        said += 1
    return said / len(hits)


def answer_hits(row: AnswerRow) -> Sequence[bool]:
    """Hits at the tokens of the reference, without those that close the turn; empty where not measured."""
    hits = row.reference_hits or ()
    return hits[: max(0, len(hits) - row.closing_tokens)]


def _measure(context: Context, of_hits: Callable[[Sequence[bool]], float | None]) -> Measurement:
    return context.mean([of_hits(answer_hits(row)) for row in context.rows], why=MISSING)


def _add(name: str, title: str, of_hits: Callable[[Sequence[bool]], float | None]) -> None:
    METRICS.add(
        name,
        Metric(
            name,
            title,
            SOURCE,
            {"forget": "lower", "retain": "higher"},
            lambda context: _measure(context, of_hits),
            ("reference",),
        ),
    )


_add("exact_memorisation", "Exact memorisation", exact_memorisation)
_add("extraction_strength", "Extraction strength", extraction_strength)


PROBABILITY_SOURCE = "arXiv 2401.06121"
NO_LOGPROBS = "no log-probabilities of the reference"
NO_WRONG_ANSWERS = "no wrong answers to set it against"


def mean_logprob(logprobs: Sequence[float] | None) -> float | None:
    """The mean over the tokens; -inf where one of them is impossible, None where there is no token or no number."""
    if not logprobs:
        return None
    mean = math.fsum(logprobs) / len(logprobs) if -math.inf not in logprobs else -math.inf
    return None if math.isnan(mean) else mean


def probability(logprobs: Sequence[float] | None) -> float | None:
    """P^(1/|a|), the geometric mean of the tokens' probabilities, in [0, 1]."""
    mean = mean_logprob(logprobs)
    return None if mean is None else math.exp(mean)


def option_probability(answer: Sequence[float] | None, wrong: Sequence[Sequence[float]] | None) -> float | None:
    """The answer's share of the probability of all options; None where it or all the wrong ones were not measured."""
    own = mean_logprob(answer)
    others = [mean for logprobs in wrong or () if (mean := mean_logprob(logprobs)) is not None]
    if own is None or not others or max(own, *others) == -math.inf:
        return None
    return 1 / math.fsum(math.exp(min(other - own, 700)) for other in (own, *others)) if own > -math.inf else 0.0


def bring_wrong_answers(rows: Sequence[AnswerRow], _: Sequence[AnswerRow]) -> bool:
    """Whether there is anything to set the right answers against."""
    return any(row.perturbed_logprobs is not None for row in rows)


def _probability(context: Context) -> Measurement:
    return context.mean([probability(row.reference_logprobs) for row in context.rows], why=NO_LOGPROBS)


def _options(context: Context) -> Measurement:
    return context.mean([_option(row) for row in context.rows], why=f"{NO_LOGPROBS}, or {NO_WRONG_ANSWERS}")


def _option(row: AnswerRow) -> float | None:
    return option_probability(row.reference_logprobs, row.perturbed_logprobs)


METRICS.add(
    "probability",
    Metric(
        "probability",
        "Probability of the reference",
        PROBABILITY_SOURCE,
        {"forget": "lower", "retain": "higher"},
        _probability,
        ("reference",),
    ),
)
METRICS.add(
    "probability_options",
    Metric(
        "probability_options",
        "Probability of the reference among wrong answers",
        PROBABILITY_SOURCE,
        {"forget": "lower", "retain": "higher"},
        _options,
        ("reference",),
        bring_wrong_answers,
    ),
)


WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


class _Tokens:
    """Lower-cased words; those longer than three letters are stemmed, as the package does it."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stem = cache(PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        return [self._stem(word) if len(word) > 3 else word for word in WORD.findall(text.lower())]


@cache
def _scorer():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Tokens())


def rouge_l_recall(row: AnswerRow) -> float | None:
    """0 for an empty answer; None when the reference has no word to find."""
    if not WORD.search(row.reference):
        return None
    return float(_scorer().score(row.reference, row.response)["rougeL"].recall)


def _measure_overlap(context: Context) -> Measurement:
    return context.mean([rouge_l_recall(row) for row in context.rows], why="no word in the reference")


METRICS.add(
    "rouge_l",
    Metric("rouge_l", "ROUGE-L recall", "Lin 2004", {"forget": "lower", "retain": "higher"}, _measure_overlap),
)


VERBATIM_SOURCE = "arXiv 2407.06460"
BETTER: Mapping[Split, Better] = {"forget": "lower", "retain": "higher"}


class _Words:
    def tokenize(self, text: str) -> list[str]:
        return WORD.findall(text.lower())


@cache
def _scorer_verbatim():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def rouge_l_f(row: AnswerRow) -> float | None:
    """0 for an empty response; None where the reference has no word to find."""
    if not WORD.search(row.reference):
        return None
    return float(_scorer_verbatim().score(row.reference, row.response)["rougeL"].fmeasure)


def _measure_verbatim(context: Context, form: str, why: str) -> Measurement:
    values = [rouge_l_f(row) if row.form == form else None for row in context.rows]
    return context.mean(values, "ROUGE-L F, not stemmed", why)


def _continues(rows: Sequence[AnswerRow], every: Sequence[AnswerRow]) -> bool:
    return any(row.form == "text" for row in rows)


def _asks_about_texts(rows: Sequence[AnswerRow], every: Sequence[AnswerRow]) -> bool:
    return any(row.form == "chat" for row in rows) and any(row.form == "text" for row in every)


METRICS.add(
    "verbmem",
    Metric(
        "verbmem",
        "Verbatim memorisation",
        VERBATIM_SOURCE,
        BETTER,
        lambda context: _measure_verbatim(context, "text", "a question, not a passage, or a passage without words"),
        applies=_continues,
    ),
)
METRICS.add(
    "knowmem",
    Metric(
        "knowmem",
        "Knowledge memorisation",
        VERBATIM_SOURCE,
        BETTER,
        lambda context: _measure_verbatim(context, "chat", "a passage, not a question, or an answer without words"),
        applies=_asks_about_texts,
    ),
)
