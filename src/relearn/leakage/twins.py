"""Make false answers ("twins") for multiple-choice questions from the answers about other subjects.

A twin is another subject's answer to a similar question, with the name of the record's subject in place of the other
name, also in e-mail addresses. So a twin is fluent and on topic, and only its secret differs from the true answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from relearn.data import Record
from relearn.text.normalize import norms

CHOICES = 4


@dataclass(frozen=True)
class AnswerChoices:
    """Store the true answer of `record` among twins: `texts[right]` is the true answer."""

    record: Record
    texts: tuple[str, ...]
    right: int


def answer_choices(facts: Sequence[Record], others: Sequence[Record], seed: int) -> list[AnswerChoices]:
    """Make CHOICES answers for every fact: the true one, at a random position set by `seed`, and twins.

    Twins are made from `facts` and `others`. Passages (form "text") and facts with too few twins are left out.
    """
    pool = [record for record in (*facts, *others) if record.form == "chat"]
    questions = []
    for number, record in enumerate(facts):
        twins = twin_answers(record, pool, CHOICES - 1) if record.form == "chat" else []
        if len(twins) == CHOICES - 1:
            right = random.Random(f"{seed}/{number}").randrange(CHOICES)
            questions.append(AnswerChoices(record, (*twins[:right], record.answer, *twins[right:]), right))
    return questions


def twin_answers(record: Record, pool: Sequence[Record], count: int) -> list[str]:
    """Make up to `count` different false answers for `record` from the answers in `pool`, best first.

    Records of other subjects are used first, then those with the largest share of common question words (Jaccard
    index); ties are in the order of `pool`.
    """
    question = _question_words(record)

    def rank(other: Record) -> tuple[bool, float]:
        return other.subject == record.subject, -_jaccard(question, _question_words(other))

    seen = {norms(record.answer)}
    twins: list[str] = []
    for other in sorted((other for other in pool if other.id != record.id), key=rank):
        text = replace_name(other.answer, other.subject, record.subject)
        if norms(text) not in seen:
            seen.add(norms(text))
            twins.append(text)
        if len(twins) == count:
            break
    return twins


def replace_name(text: str, old: str | None, new: str | None) -> str:
    """Replace the name `old` with `new` in a text: the full name, its last and its first part, also in lower case."""
    if not old or not new or old == new:
        return text
    old_parts, new_parts = old.split(), new.split()
    for before, after in ((old, new), (old_parts[-1], new_parts[-1]), (old_parts[0], new_parts[0])):
        if len(before) > 2:
            text = text.replace(before, after).replace(before.lower(), after.lower())
    return text


def _question_words(record: Record) -> set[str]:
    return set(norms(record.question)) - set(norms(record.subject or ""))


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / max(1, len(one | other))
