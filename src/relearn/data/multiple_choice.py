"""Multiple-choice rows: the choices a row offers and which of them is right.

Shapes that are read: a list of texts; one text with a line per choice ("A. Oslo", "B. Rome"); texts with labels
({"text": [...], "label": [...]}, as ARC and OpenBookQA have them); texts marked 1 and 0 ({"choices": [...],
"labels": [...]}, as TruthfulQA has them). The right one is named by its number from 0, its letter or label, or its
text.
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
class Offered:
    """The texts a row offers, the label of each, and the place of the right one where the choices themselves say so."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    right: int | None = None


def offered(value: Any, where: str, column: str) -> Offered:
    """What a cell offers, its texts not yet checked; raises InputError where it is of none of the known shapes."""
    if isinstance(value, str):
        found = _lines(value, where, column)
    elif isinstance(value, Mapping):
        found = _mapping(value, where, column)
    elif isinstance(value, list | tuple):
        found = Offered(*_unlabelled(_without_letters(value)))
    else:
        raise _no_choices(where, column)
    if len(found.texts) > len(LETTERS):
        raise InputError(f"the field {column!r} offers {len(found.texts)} choices", where=where, way_out="26 at most")
    return found


def right_choice(answer: Any, choices: Offered, where: str, column: str) -> int:
    """The place of the right choice. Raises InputError where `answer` names none of them, or more than one."""
    if choices.right is not None:
        return choices.right
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(choices.texts):
            return answer
        raise InputError(
            f"{column!r} is {answer}, the choices are numbered from 0 to {len(choices.texts) - 1}", where=where
        )
    named = _named(answer, choices) if isinstance(answer, str) else set()
    if len(named) != 1:
        problem = "fits more than one choice" if named else "is none of the choices"
        raise InputError(
            f"{column!r} {problem}",
            where=where,
            way_out="name the right one by number from 0, by letter or by its text",
        )
    return named.pop()


def spelled(answer: Any, choice: str) -> str:
    """The answer in words: as the row has it where that says the same as the right choice, else the choice."""
    same = isinstance(answer, str) and len(answer.strip()) > 1 and _plain(answer) == _plain(choice)
    return answer if same else choice


def _named(answer: str, choices: Offered) -> set[int]:
    """Choices that a text may mean: those it repeats, else the one whose label it gives, else those that read alike."""
    if same := {at for at, text in enumerate(choices.texts) if text == answer}:
        return same
    label = answer.strip().strip("().")
    if label in choices.labels:
        return {choices.labels.index(label)}
    if alike := {at for at, text in enumerate(choices.texts) if _plain(text) == _plain(answer)}:
        return alike
    if label.isdecimal() and int(label) < len(choices.texts):
        return {int(label)}
    line = _LINE.fullmatch(answer.strip())
    if line and line[1] in choices.labels:
        at = choices.labels.index(line[1])
        return {at} if _plain(line[2]) == _plain(choices.texts[at]) else set()
    return set()


def _lines(text: str, where: str, column: str) -> Offered:
    """ "A. one", "B. two" on lines of their own; a line without the next letter goes on with the choice before it."""
    texts: list[str] = []
    for line in text.strip().splitlines():
        found = _LINE.fullmatch(line)
        if found and len(texts) < len(LETTERS) and found[1] == LETTERS[len(texts)]:
            texts.append(found[2].strip())
        elif texts:
            texts[-1] += f"\n{line}"
        else:
            break
    if len(texts) < 2:
        raise _no_choices(where, column)
    return Offered(*_unlabelled(texts))


def _mapping(value: Mapping[str, Any], where: str, column: str) -> Offered:
    texts = value.get("text", value.get("choices"))
    labels = value.get("label", value.get("labels"))
    if not _texts(texts) or not isinstance(labels, list | tuple) or len(labels) != len(texts):
        raise _no_choices(where, column)
    if all(label in (0, 1) and not isinstance(label, str) for label in labels):
        if sum(labels) != 1:
            raise InputError(f"the field {column!r} marks {sum(labels)} choices as right, not one", where=where)
        return Offered(*_unlabelled(texts), right=list(labels).index(1))
    return Offered(tuple(texts), tuple(map(str, labels)))


def _no_choices(where: str, column: str) -> InputError:
    return InputError(
        f"the field {column!r} holds no choices",
        where=where,
        way_out='a list of texts, lines ("A. one"), or {"text": [...], "label": [...]} of the same length',
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 1 and all(isinstance(entry, str) for entry in value)


def _without_letters(texts: Sequence[Any]) -> list[Any]:
    """The texts without their letters, where all bring one and they run A, B, C."""
    found = [_LINE.fullmatch(text) if isinstance(text, str) else None for text in texts]
    if any(line is None or LETTERS[at : at + 1] != line[1] for at, line in enumerate(found)):
        return list(texts)
    return [line[2].strip() for line in found if line]


def _unlabelled(texts: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    return tuple(texts), tuple(LETTERS[: len(texts)])


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .")
