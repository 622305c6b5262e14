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


_BLANK = re.compile(r"_{2,}")
_ASKS = re.compile(
    r"\W*(?:whats?|whos?|whom|whose|wheres?|when|why|which|hows?|is|are|was|were|do|does|did|has|have|had|can|could|will|"
    r"would|should|may|tell|describe|explain|list|name|give|provide|discuss|please|complete|write|rewrite|state|say|"
    r"choose|select|fill|answer|translate|summari[sz]e|identify|find)\b",
    re.IGNORECASE,
)
_NAME = r"[A-ZÀ-Þ][\w'’-]+(?: (?:[A-ZÀ-Þ]\.|(?:de|da|la|van|von|bin|al) )?[A-ZÀ-Þ][\w'’-]+){1,3}"
_STATES = re.compile(
    rf"{_NAME},?(?: who| which)? (?:\w+ly )?(?:is|was|has|had|lives?|lived|works?|worked|were|can be|resides?|resided|"
    r"grew|studied|became|began|started|holds?|held|earns?|earned|suffers?|suffered|owns?|owned|married|moved|wrote)\b"
)
_OPENS_A_TEXT = re.compile(r"(?:The|An?|In|On|At|As|It|Once|During|After|Before|For|Born|His|Her|Their|He|She|They) ")
_LONG_TEXT = 20  # words
_OPEN_END = re.compile(r"\b(?:a|an|the|is|was|are|were|of|in|on|at|to|by|for|with|as|and|or|that|her|his|their|its)$")
_MIN_BROKEN = 8  # words


def begins_text(question: str, answer: str) -> bool:
    """Return whether a "question" is the beginning of a text that the answer continues, and asks nothing.

    It is one where it states something about a name, where it breaks off inside a sentence that the answer continues in
    lower case, or where it is long and opens as a text does. Rules for English.
    """
    if "?" in question or _BLANK.search(question) or _ASKS.match(question) or ":" in question[-2:]:
        return False
    words = question.split()
    is_cut = question.rstrip()[-1:].isalnum() and question[:1].isupper() and answer.lstrip()[:1].islower()
    breaks_off = is_cut and (len(words) >= _MIN_BROKEN or _OPEN_END.search(question.rstrip()) is not None)
    opens = len(words) >= _LONG_TEXT and _OPENS_A_TEXT.match(question) is not None
    return len(words) >= 3 and (breaks_off or opens or _STATES.match(question) is not None)


TAG_COLUMNS = ("tags", "level", "type", "kind", "attack", "attacks")
FILL_IN = "Complete the sentence: give only the words that belong in the blank."


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
