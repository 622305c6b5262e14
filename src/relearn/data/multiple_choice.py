"""Parse the choices of a multiple-choice row and find the correct one.

The cell with the choices has one of these formats: a list of texts; one text with a line per choice ("A. Oslo",
"B. Rome"); texts with labels ({"text": [...], "label": [...]}, as in ARC and OpenBookQA); texts marked as correct (1)
or wrong (0) ({"choices": [...], "labels": [...]}, as in TruthfulQA). The answer cell gives the correct choice by its
index from 0, its letter or label, or its text.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relearn.core.errors import InputError

COLUMNS = ("choices", "options", "mc1_targets")
LETTERS = string.ascii_uppercase
_LINE = re.compile(r"\s*\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Choices:
    """Store the texts and labels of the choices; `correct`: index of the correct choice, where the cell marks it."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    correct: int | None = None


def parse_choices(value: Any, where: str, column: str) -> Choices:
    """Parse a cell with choices; the texts are not validated. Raises InputError for a cell in an unknown format."""
    if isinstance(value, str):
        choices = _parse_lines(value, where, column)
    elif isinstance(value, Mapping):
        choices = _parse_mapping(value, where, column)
    elif isinstance(value, list | tuple):
        choices = _lettered(_without_letters(value))
    else:
        raise _no_choices(where, column)
    if len(choices.texts) > len(LETTERS):
        raise InputError(f"the field {column!r} has {len(choices.texts)} choices", where=where, way_out="26 at most")
    return choices


def correct_choice(answer: Any, choices: Choices, *, where: str, column: str) -> int:
    """Find the index of the correct choice. Raises InputError where `answer` fits no choice or more than one."""
    if choices.correct is not None:
        return choices.correct
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(choices.texts):
            return answer
        raise InputError(
            f"{column!r} is {answer}, the choices are numbered from 0 to {len(choices.texts) - 1}", where=where
        )
    matching = _matching_choices(answer, choices) if isinstance(answer, str) else set()
    if len(matching) != 1:
        problem = "fits more than one choice" if matching else "is none of the choices"
        way_out = "name the right one by number from 0, by letter or by its text"
        raise InputError(f"{column!r} {problem}", where=where, way_out=way_out)
    return matching.pop()


def answer_text(answer: Any, choice: str) -> str:
    """Return the answer as text: `answer` where it is the correct choice but for case and spaces, else `choice`."""
    same = isinstance(answer, str) and len(answer.strip()) > 1 and _plain(answer) == _plain(choice)
    return answer if same else choice


def _matching_choices(answer: str, choices: Choices) -> set[int]:
    """Return the indices of the choices that fit an answer.

    These are the choices with the same text; else the one with this label; else those with the same text but for case;
    else the one with this index; else the one with this letter and text ("A. Oslo").
    """
    if equal := {at for at, text in enumerate(choices.texts) if text == answer}:
        return equal
    label = answer.strip().strip("().")
    if label in choices.labels:
        return {choices.labels.index(label)}
    if similar := {at for at, text in enumerate(choices.texts) if _plain(text) == _plain(answer)}:
        return similar
    if label.isdecimal() and int(label) < len(choices.texts):
        return {int(label)}
    line = _LINE.fullmatch(answer.strip())
    if line and line[1] in choices.labels:
        at = choices.labels.index(line[1])
        return {at} if _plain(line[2]) == _plain(choices.texts[at]) else set()
    return set()


def _parse_lines(text: str, where: str, column: str) -> Choices:
    """Parse lines "A. one", "B. two"; a line without the next letter is part of the previous choice."""
    texts: list[str] = []
    for line in text.strip().splitlines():
        match = _LINE.fullmatch(line)
        if match and len(texts) < len(LETTERS) and match[1] == LETTERS[len(texts)]:
            texts.append(match[2].strip())
        elif texts:
            texts[-1] += f"\n{line}"
        else:
            break
    if len(texts) < 2:
        raise _no_choices(where, column)
    return _lettered(texts)


def _parse_mapping(value: Mapping[str, Any], where: str, column: str) -> Choices:
    texts = value.get("text", value.get("choices"))
    labels = value.get("label", value.get("labels"))
    if not _is_text_list(texts) or not isinstance(labels, list | tuple) or len(labels) != len(texts):
        raise _no_choices(where, column)
    if all(label in (0, 1) and not isinstance(label, str) for label in labels):
        if sum(labels) != 1:
            raise InputError(f"the field {column!r} marks {sum(labels)} choices as right, not one", where=where)
        return _lettered(texts, correct=list(labels).index(1))
    return Choices(tuple(texts), tuple(map(str, labels)))


def _no_choices(where: str, column: str) -> InputError:
    return InputError(
        f"the field {column!r} holds no choices",
        where=where,
        way_out='a list of texts, lines ("A. one"), or {"text": [...], "label": [...]} of the same length',
    )


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 1 and all(isinstance(entry, str) for entry in value)


def _without_letters(texts: Sequence[Any]) -> list[Any]:
    """Remove the letters in front of the texts where all texts have one and they are A, B, C, ... in order."""
    lines = [_LINE.fullmatch(text) if isinstance(text, str) else None for text in texts]
    if any(line is None or LETTERS[at : at + 1] != line[1] for at, line in enumerate(lines)):
        return list(texts)
    return [line[2].strip() for line in lines if line]


def _lettered(texts: Sequence[Any], correct: int | None = None) -> Choices:
    return Choices(tuple(texts), tuple(LETTERS[: len(texts)]), correct)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .")
