"""Define `Record`: a question with its answer, or a passage of text.

The tags of a record are its level, its type and the attacks it uses, as in RWKU's probes (arXiv 2406.10890). Scores
are also reported per tag.
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
    """Store a question and its answer (`form` "chat"), or the prefix of a text and its continuation (`form` "text").

    `id`: hash of question and answer, unless the data file has an id. `subject`: person or thing that the record is
    about. `choices`: answers of a multiple-choice question; `choice`: index of the correct one. `tags`: see the module.
    `paraphrases`: rewordings of the question; `paraphrased_answer`: rewording of the answer. `alternatives`: perturbed
    (false) or alternative answers. `source`: place that the record was read from.
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
    """Compute the id of a record from its texts: the first sixteen hex digits of their sha256."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]


TAG_COLUMNS = ("tags", "level", "type", "kind", "attack", "attacks")
FILL_IN = "Complete the sentence: give only the words that belong in the blank."
_BLANK = re.compile(r"_{2,}")


def read_tags(values: Mapping[str, Any], columns: Iterable[str] = TAG_COLUMNS) -> tuple[str, ...]:
    """Read the tags of a row, without duplicates, in the order of `columns`.

    A cell is a text, an integer or a list of them; values of other types are skipped. The column name is put before a
    number: "level 1".
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
    """Prepend FILL_IN to a question with a blank ("___"); return other questions unchanged."""
    return f"{FILL_IN}\n{question}" if _BLANK.search(question) else question


Sampled = TypeVar("Sampled")


def evenly(items: Sequence[Sampled], count: int) -> list[Sampled]:
    """Select at most `count` items at equal distances from a sequence, in order."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]
