"""True answers, damaged step by step: what a model might say that forgot a little, much, or how to speak.

Everything is drawn from the answers themselves and from wordings of the project: no model, no network, the same texts
for the same seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from relearn.llm.completer import Prompt
from relearn.llm.templates.generator import Templates
from relearn.metrics.answer_row import AnswerRow
from relearn.text.entities import Extractor, without_query
from relearn.text.subjects import find_subject
from relearn.unlearning.data.streams import REFUSALS

LOOP = 40
_NUMBERED = re.compile(r"^\s*1[.)]\s*")


@dataclass(frozen=True)
class Step:
    """One way to damage all answers. `text` None for a row means that this row cannot be damaged so."""

    name: str
    about: str
    texts: Sequence[str | None]


def steps(rows: Sequence[AnswerRow], extractor: Extractor, others: Mapping[str, str], seed: int = 0) -> list[Step]:
    """From whole to nothing. `others`: by row id, the same answer in other words, where the data have one."""
    rng = random.Random(f"{seed}/damage")
    particulars = _particulars(rows, extractor)
    words = [word for row in rows for word in row.reference.split()]
    made = [
        ("true", "the reference itself", [row.reference for row in rows]),
        ("in other words", "a paraphrase that says the same", [others.get(row.id) for row in rows]),
        ("one wrong", "one particular replaced by that of another answer", _swapped(rows, particulars, 1)),
        ("half wrong", "every second particular replaced", _swapped(rows, particulars, 2)),
        ("all wrong", "every particular replaced", _swapped(rows, particulars, 0)),
        ("half removed", "the first half of the words", [_half(row.reference) for row in rows]),
        ("vague", "about the subject, without a particular", _vague(rows, seed)),
        ("refusal", "it declines to answer", [REFUSALS[at % len(REFUSALS)] for at in range(len(rows))]),
        ("other answer", "the true answer to another question", _shifted([row.reference for row in rows])),
        ("babble", "words of all answers, drawn at random", [_babble(row.reference, words, rng) for row in rows]),
        ("loop", "one word again and again", [_loop(row.reference) for row in rows]),
        ("silence", "an empty answer", [""] * len(rows)),
    ]
    return [Step(name, about, texts) for name, about, texts in made if any(text is not None for text in texts)]


def damaged(rows: Sequence[AnswerRow], step: Step) -> list[AnswerRow]:
    """The rows with the texts of a step as responses; those that cannot be damaged so are left out."""
    return [replace(row, response=text) for row, text in zip(rows, step.texts, strict=True) if text is not None]


def _particulars(rows: Sequence[AnswerRow], extractor: Extractor) -> list[list[str]]:
    """What each reference names that its question does not, word for word and in the order of the text."""
    found = extractor.extract([text for row in rows for text in (row.question, row.reference)])
    pairs = zip(rows, found[::2], found[1::2], strict=True)
    named = [without_query(answer or [], row.question, query or []) for row, query, answer in pairs]
    return [
        sorted((entity for entity in entities if entity in row.reference), key=row.reference.index)
        for row, entities in zip(rows, named, strict=True)
    ]


def _swapped(rows: Sequence[AnswerRow], particulars: Sequence[Sequence[str]], every: int) -> list[str | None]:
    """Particulars replaced by those of the same kind from answers about somebody else.

    every 1: the first one alone; 2: every second, at least one; 0: all.
    """
    pool: dict[str, list[tuple[int, str]]] = {}
    for at, entities in enumerate(particulars):
        for entity in entities:
            pool.setdefault(_kind(entity), []).append((at, entity))
    texts: list[str | None] = []
    for at, (row, entities) in enumerate(zip(rows, particulars, strict=True)):
        chosen = entities[:1] if every == 1 else entities[:: every or 1]
        text = row.reference
        for entity in chosen:
            false = _foreign(entity, at, row, rows, pool[_kind(entity)])
            text = text if false is None else text.replace(entity, false)
        texts.append(None if text == row.reference else text)
    return texts


def _foreign(
    entity: str, at: int, row: AnswerRow, rows: Sequence[AnswerRow], pool: Sequence[tuple[int, str]]
) -> str | None:
    """The next entity of the pool that is of another person and stands nowhere in this question or answer."""
    said = f"{row.question} {row.reference}".casefold()
    start = next((place for place, (owner, _) in enumerate(pool) if owner > at), 0)
    for owner, other in (*pool[start:], *pool[:start]):
        elsewhere = rows[owner].subject is None or rows[owner].subject != row.subject
        if owner != at and elsewhere and other.casefold() not in said and other != entity:
            return other
    return None


def _kind(entity: str) -> str:
    if "@" in entity:
        return "address"
    if any(character.isdigit() for character in entity):
        return "number"
    return "name" if entity[:1].isupper() else "noun"


def _half(text: str) -> str | None:
    words = text.split()
    return " ".join(words[: len(words) // 2]) if len(words) > 1 else None


def _shifted(texts: Sequence[str]) -> list[str | None]:
    """Everyone's answer to somebody else: half of the set away."""
    away = len(texts) // 2
    return [texts[(at + away) % len(texts)] if away else None for at in range(len(texts))]


def _vague(rows: Sequence[AnswerRow], seed: int) -> list[str | None]:
    prompts = [
        Prompt(
            row.question,
            task="vague",
            seed=seed,
            fields={"subject": row.subject or find_subject(row.question) or "", "questions": f"1. {row.question}"},
        )
        for row in rows
    ]
    written = Templates().complete(prompts)
    return [_NUMBERED.sub("", one.text).strip() if one.text else None for one in written]


def _babble(reference: str, words: Sequence[str], rng: random.Random) -> str:
    return " ".join(rng.choice(words) for _ in reference.split())


def _loop(reference: str) -> str | None:
    words = reference.split()
    return " ".join([words[0]] * LOOP) if words else None
