"""One piece of knowledge: a question with its answer, or a passage of text.

What kind of probe a row is: its level, its type, the attacks it uses (as RWKU's probes have them, arXiv 2406.10890).

Tags come from the columns below, each a text, a number or a list of texts; scores are broken down by them. A probe
whose question has a blank is asked with one sentence in front of it that says so, in training and evaluation alike.

A few of many, spread evenly over the whole.
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
    `choices` are the answers a multiple-choice question offers, `choice` the place of the right one; `tags` say what
    kind of probe the record is (its level, its attacks), and scores are broken down by them.
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
    """Sixteen hex digits that depend on the texts and on nothing else."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]


COLUMNS = ("tags", "level", "type", "kind", "attack", "attacks")
FILL_IN = "Complete the sentence: give only the words that belong in the blank."
_BLANK = re.compile(r"_{2,}")


def tags_of(values: Mapping[str, Any], columns: Iterable[str] = COLUMNS) -> tuple[str, ...]:
    """The tags of a row, each once, in the order of its columns. A bare number gets its column's name: "level 1".

    Cells of other types are of some other use and are left alone.
    """
    found: list[str] = []
    for column in columns:
        cell = values.get(column)
        for entry in cell if isinstance(cell, list | tuple) else [cell]:
            if isinstance(entry, str | int) and not isinstance(entry, bool):
                text = " ".join(str(entry).split())
                found.append(f"{column} {text}" if text.isdecimal() else text)
    return tuple(dict.fromkeys(filter(None, found)))


def as_asked(question: str) -> str:
    """The question of a probe as a model is asked it."""
    return f"{FILL_IN}\n{question}" if _BLANK.search(question) else question


Item = TypeVar("Item")


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items, at even distances over the whole, in their order."""
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]
