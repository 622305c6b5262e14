"""Define `Record`, one piece of knowledge: a question with its answer, or a passage of text.

A record's tags say what kind of probe it is: its level, its type, the attacks it uses (as RWKU's probes have them,
arXiv 2406.10890). Scores are broken down by them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Split = Literal["forget", "retain", "holdout", "generic"]
Form = Literal["chat", "text"]


@dataclass(frozen=True, slots=True)
class Record:
    """A question and its answer (`form` "chat"), or a prefix of a text and how it goes on (`form` "text").

    `id` is a stable hash of question and answer unless the data brings its own. `paraphrases` are other wordings of the
    question, `alternatives` perturbed or alternate answers, `subject` the person or thing the record is about.
    `choices` are the answers of a multiple-choice question, `choice` is the index of the correct one. `source` is the
    place the record was read from.
    """

    question: str
    answer: str
    id: str = ""
    subject: str | None = None
    split: Split = "forget"
    form: Form = "chat"
    choices: tuple[str, ...] = ()
    choice: int | None = None
    tags: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    paraphrased_answer: str | None = None
    alternatives: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self.question, self.answer))


def content_id(*parts: str) -> str:
    """Return sixteen hex digits of the sha256 of the texts."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]


TAG_COLUMNS = ("tags", "level", "type", "kind", "attack", "attacks")
FILL_IN = "Complete the sentence: give only the words that belong in the blank."
_BLANK = re.compile(r"_{2,}")


def read_tags(values: Mapping[str, Any], columns: Iterable[str] = TAG_COLUMNS) -> tuple[str, ...]:
    """Return the tags of a row without repetitions, in the order of `columns`.

    A cell is a text, an integer or a list of them; entries of other types are skipped. A number gets its column's name:
    "level 1".
    """
    tags: list[str] = []
    for column in columns:
        cell = values.get(column)
        for entry in cell if isinstance(cell, list | tuple) else [cell]:
            if isinstance(entry, str | int) and not isinstance(entry, bool):
                text = " ".join(str(entry).split())
                tags.append(f"{column} {text}" if text.isdecimal() else text)
    return tuple(dict.fromkeys(filter(None, tags)))


def add_fill_in_instruction(question: str) -> str:
    """Put FILL_IN before a question with a blank ("___"), in training and evaluation alike; return others unchanged."""
    return f"{FILL_IN}\n{question}" if _BLANK.search(question) else question


Sampled = TypeVar("Sampled")


def evenly(items: Sequence[Sampled], count: int) -> list[Sampled]:
    """Return at most `count` items at even distances over the whole sequence, in order."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]
