"""Estimate the language-model calls to measure a run, their cost, and the texts that they send to remote hosts.

Built-in judges need no calls. A prompted entity extractor gets every question and reference once, and the model's
answers before and after unlearning. A grading judge gets every answer once per grade. One call writes three wordings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relearn.core import config
from relearn.data import Record
from relearn.data.validation import DataSet
from relearn.llm.generators import remote_host
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.judges import entity_prompt
from relearn.metrics.llm_judge import ASPECTS, MAX_TOKENS, Aspect, grade_prompt
from relearn.synthesis.generation_cost import (
    ANSWER_TOKENS,
    LABEL_TOKENS,
    MESSAGE_TOKENS,
    QUESTIONS,
    VARIANT_GROWTH,
    WITH_ANSWERS,
    Sent,
    Spending,
    TokenCounter,
    estimate_spending,
    token_counter,
)
from relearn.synthesis.questions import WORDING_VARIANTS, variant_group, variants_prompt

SIDES = 2  # before and after
_FORGET = ("forget", "probes_forget")
# (tokens read, tokens written) of each call.
CallSizes = Iterable[tuple[int, int]]


def judge_cost(recipe: config.Recipe, data: DataSet, tokenizer: Any = None) -> tuple[list[Spending], list[Sent]]:
    """Estimate calls, tokens and cost by purpose, and the texts sent to other hosts; makes no calls."""
    count, metrics, prices = token_counter(tokenizer), recipe.metrics, recipe.prices
    generator = recipe.synthesis.generator
    sets = {name: records for name, records in data.sets() if name != "generic"}
    uses: list[tuple[str, str, str, CallSizes]] = []  # (model, purpose, what is shown, calls)
    if metrics.worst_case:
        wordings = _wordings(data.forget, metrics.worst_case, recipe.synthesis, count)
        uses.append((generator, "other wordings", QUESTIONS, wordings))
    if metrics.entities != "spacy":
        records = [record for part in sets.values() for record in part]
        uses.append((generator, "entities", WITH_ANSWERS, _entities(records, metrics.worst_case, count)))
    if metrics.judge:
        judged = {name: records for name, records in sets.items() if name != "holdout"}
        uses.append((metrics.judge, "grades", WITH_ANSWERS, _grades(judged, metrics.worst_case, count)))
    spent, sent = [], []
    for name, purpose, shown, calls in uses:
        sizes = list(calls)
        totals = (len(sizes), sum(read for read, _ in sizes), sum(written for _, written in sizes))
        spent.append(estimate_spending(name, totals, prices, purpose=purpose))
        if host := remote_host(name):
            allowed_by = "metrics.allow_remote" if purpose == "grades" else "synthesis.allow_remote"
            sent.append(Sent(host, len(data.forget), shown, allowed_by))
    return spent, sent


def _wordings(records: Iterable[Record], wordings: int, settings: config.Synthesis, count: TokenCounter) -> CallSizes:
    settings = settings.model_copy(update={"variants": WORDING_VARIANTS})
    for record in records:
        missing = max(0, wordings - len(record.paraphrases))
        written = len(WORDING_VARIANTS) * (round(count(record.question) * VARIANT_GROWTH) + LABEL_TOKENS)
        for _ in range(0, missing, len(WORDING_VARIANTS)):
            prompt = variants_prompt(variant_group(record, settings), settings, seed=0)
            yield count(prompt.text) + MESSAGE_TOKENS, written


def _entities(records: Iterable[Record], wordings: int, count: TokenCounter) -> CallSizes:
    frame = count(entity_prompt("").text) + MESSAGE_TOKENS
    for record in records:
        given = [count(record.question), count(record.answer)]
        answers = [ANSWER_TOKENS] * SIDES
        if record.split == "forget":
            given += [round(given[0] * VARIANT_GROWTH)] * wordings
            answers += [ANSWER_TOKENS] * SIDES * wordings
        for tokens in (*given, *answers):
            yield frame + tokens, tokens


def _grades(parts: dict[str, tuple[Record, ...]], wordings: int, count: TokenCounter) -> CallSizes:
    for name, records in parts.items():
        questions = 1 + wordings if name == "forget" else 1
        aspects: list[Aspect] = [aspect for aspect in ASPECTS if name in _FORGET or aspect != "forgetting"]
        for record in records:
            row = AnswerRow(record.id, record.question, record.answer, record.answer)
            for aspect in aspects:
                # An answer is assumed to be as long as the reference.
                tokens = count(grade_prompt(row, aspect).text) + MESSAGE_TOKENS
                yield from [(tokens, MAX_TOKENS // 2)] * (SIDES * questions)
