"""Estimate the language-model calls to measure a run, their cost, and the texts that they send to remote hosts.

Built-in judges need no calls. A prompted entity extractor gets every question and reference once, and the model's
answers before and after unlearning. A grading judge gets every answer once per grade. One call writes three wordings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    CallSize,
    Sent,
    Spending,
    TokenCounter,
    estimate_spending,
    token_counter,
    total_sizes,
)
from relearn.synthesis.questions import WORDING_VARIANTS, variant_group, variants_prompt

SIDES = 2  # before and after
_FORGET = ("forget", "probes_forget")


def judge_cost(recipe: config.Recipe, data: DataSet, tokenizer: Any = None) -> tuple[list[Spending], list[Sent]]:
    """Estimate calls, tokens and cost by purpose, and the texts sent to other hosts; makes no calls."""
    count, metrics, prices = token_counter(tokenizer), recipe.metrics, recipe.prices
    generator = recipe.synthesis.generator
    sets = {name: records for name, records in data.sets() if name != "generic"}
    uses: list[tuple[str, str, str, CallSize]] = []  # (model, purpose, what is shown, calls and tokens)
    if metrics.worst_case:
        wordings = total_sizes(
            data.forget, lambda record: _wordings(record, metrics.worst_case, recipe.synthesis, count)
        )
        uses.append((generator, "other wordings", QUESTIONS, wordings))
    if metrics.entities != "spacy":
        frame = count(entity_prompt("").text) + MESSAGE_TOKENS
        entities = [
            total_sizes(records, lambda record: _entities(record, metrics.worst_case, count, frame))
            for records in sets.values()
        ]
        uses.append((generator, "entities", WITH_ANSWERS, _sum(entities)))
    if metrics.judge:
        grades = [
            total_sizes(records, lambda record, name=name: _grades(record, name, metrics.worst_case, count))
            for name, records in sets.items()
            if name != "holdout"
        ]
        uses.append((metrics.judge, "grades", WITH_ANSWERS, _sum(grades)))
    spent, sent = [], []
    for name, purpose, shown, totals in uses:
        spent.append(estimate_spending(name, totals, prices, purpose=purpose))
        if host := remote_host(name):
            allowed_by = "metrics.allow_remote" if purpose == "grades" else "synthesis.allow_remote"
            sent.append(Sent(host, len(data.forget), shown, allowed_by))
    return spent, sent


def _sum(parts: Iterable[CallSize]) -> CallSize:
    calls, read, written = (sum(column) for column in zip(*parts, strict=True))
    return calls, read, written


def _wordings(record: Record, wordings: int, settings: config.Synthesis, count: TokenCounter) -> Iterator[CallSize]:
    settings = settings.model_copy(update={"variants": WORDING_VARIANTS})
    missing = max(0, wordings - len(record.paraphrases))
    written = len(WORDING_VARIANTS) * (round(count(record.question) * VARIANT_GROWTH) + LABEL_TOKENS)
    for _ in range(0, missing, len(WORDING_VARIANTS)):
        prompt = variants_prompt(variant_group(record, settings), settings, seed=0)
        yield 1, count(prompt.text) + MESSAGE_TOKENS, written


def _entities(record: Record, wordings: int, count: TokenCounter, frame: int) -> Iterator[CallSize]:
    given = [count(record.question), count(record.answer)]
    answers = [ANSWER_TOKENS] * SIDES
    if record.split == "forget":
        given += [round(given[0] * VARIANT_GROWTH)] * wordings
        answers += [ANSWER_TOKENS] * SIDES * wordings
    for tokens in (*given, *answers):
        yield 1, frame + tokens, tokens


def _grades(record: Record, name: str, wordings: int, count: TokenCounter) -> Iterator[CallSize]:
    asked = SIDES * (1 + wordings if name == "forget" else 1)
    aspects: list[Aspect] = [aspect for aspect in ASPECTS if name in _FORGET or aspect != "forgetting"]
    row = AnswerRow(record.id, record.question, record.answer, record.answer)
    for aspect in aspects:
        # An answer is assumed to be as long as the reference.
        tokens = count(grade_prompt(row, aspect).text) + MESSAGE_TOKENS
        yield asked, asked * tokens, asked * (MAX_TOKENS // 2)
