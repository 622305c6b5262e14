"""ROUGE-L recall, stemmed: the longest common subsequence of reference and answer over the reference's length.

Computed by the rouge_score package. On ASCII text its numbers are the package's own; its tokeniser drops every other
letter, so answers in other scripts would score 0, and ours keeps them (Chinese and Japanese character by character).
"""

from __future__ import annotations

import re
from functools import cache

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, Metric

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


def _measure(context: Context) -> Measurement:
    return context.mean([rouge_l_recall(row) for row in context.rows], why="no word in the reference")


METRICS.add(
    "rouge_l",
    Metric("rouge_l", "ROUGE-L recall", "Lin 2004", {"forget": "lower", "retain": "higher"}, _measure),
)
