"""What kind of probe a row is: its level, its type, the attacks it uses (as RWKU's probes have them, arXiv 2406.10890).

Tags come from the columns below, each a text, a number or a list of texts; scores are broken down by them. A probe
whose question has a blank is asked with one sentence in front of it that says so, in training and evaluation alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

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
