"""What is left of a text: MUSE's verbatim and knowledge memorisation (arXiv 2407.06460).

    VerbMem = mean ROUGE-L F of (how the model goes on, how the text goes on)     rows of form "text"
    KnowMem = mean ROUGE-L F of (the model's answer, the true answer)             questions about the texts

F is the harmonic mean of precision and recall of the longest common subsequence of words, not stemmed, as MUSE has it.
A continuation longer than the text's own loses precision: let the model write about as many tokens as the text goes on
for (`generate.max_new_tokens`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, Better, Metric, Split
from relearn.metrics.overlap import WORD

SOURCE = "arXiv 2407.06460"
BETTER: Mapping[Split, Better] = {"forget": "lower", "retain": "higher"}


class _Words:
    def tokenize(self, text: str) -> list[str]:
        return WORD.findall(text.lower())


@cache
def _scorer():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def rouge_l_f(row: AnswerRow) -> float | None:
    """0 for an empty response; None where the reference has no word to find."""
    if not WORD.search(row.reference):
        return None
    return float(_scorer().score(row.reference, row.response)["rougeL"].fmeasure)


def _measure(context: Context, form: str, why: str) -> Measurement:
    values = [rouge_l_f(row) if row.form == form else None for row in context.rows]
    return context.mean(values, "ROUGE-L F, not stemmed", why)


def _continues(rows: Sequence[AnswerRow], every: Sequence[AnswerRow]) -> bool:
    return any(row.form == "text" for row in rows)


def _asks_about_texts(rows: Sequence[AnswerRow], every: Sequence[AnswerRow]) -> bool:
    return any(row.form == "chat" for row in rows) and any(row.form == "text" for row in every)


METRICS.add(
    "verbmem",
    Metric(
        "verbmem", "Verbatim memorisation", SOURCE, BETTER,
        lambda context: _measure(context, "text", "a question, not a passage, or a passage without words"),
        applies=_continues,
    ),
)  # fmt: skip
METRICS.add(
    "knowmem",
    Metric(
        "knowmem", "Knowledge memorisation", SOURCE, BETTER,
        lambda context: _measure(context, "chat", "a passage, not a question, or an answer without words"),
        applies=_asks_about_texts,
    ),
)  # fmt: skip
