"""Answers from a file of anyone's making: what `relearn evaluate` compares when there is no run folder.

Known columns: question, reference, response (a run folder's own files), question, answer, response, and query,
ground_truth, generated_response. Questions may repeat: rows are told apart by id, never by text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relearn.errors import InputError
from relearn.metrics.answers import AnswerRow
from relearn.records import content_id
from relearn.records.files import read_rows

LAYOUTS = (
    ("question", "reference", "response"),
    ("question", "answer", "response"),
    ("query", "ground_truth", "generated_response"),
)
_LOGPROBS = ("reference_logprobs", "response_logprobs")


def load_answers(path: Path | str) -> list[AnswerRow]:
    """The rows of a JSON, JSON lines, CSV or Parquet file, with ids made unique.

    A row without an id gets the hash of question and reference. Raises InputError for a missing, null or wrong-typed
    field: an answer that was never given is not an empty answer.
    """
    rows = read_rows(Path(path))
    if not rows:
        raise InputError("no rows", where=str(path))
    answers = [_answer(where, values) for where, values in rows]
    return _with_unique_ids(answers)


def _answer(where: str, values: Mapping[str, Any]) -> AnswerRow:
    layout = next((names for names in LAYOUTS if set(names) <= set(values)), None)
    if layout is None:
        raise InputError(
            f"the fields {', '.join(map(repr, values)) or '(none)'} hold no answers",
            where=where,
            way_out=" or ".join(", ".join(names) for names in LAYOUTS),
        )
    question, reference, response = (_text(values, name, where) for name in layout)
    subject = _text(values, "subject", where) if values.get("subject") is not None else None
    key = values.get("id")
    if key is not None and (isinstance(key, bool) or not isinstance(key, str | int)):
        raise InputError(f"'id' is a {type(key).__name__}, not a text", where=where)
    logprobs = {name: _logprobs(values.get(name), name, where) for name in _LOGPROBS}
    name = content_id(question, reference) if key is None else str(key)
    return AnswerRow(name, question, reference, response, subject, **logprobs)


def _text(values: Mapping[str, Any], name: str, where: str) -> str:
    value = values[name]
    if value is None:
        raise InputError(f"{name!r} is null", where=where, way_out="leave the row out, or write the text, empty or not")
    if not isinstance(value, str):
        raise InputError(f"{name!r} is a {type(value).__name__}, not a text", where=where)
    return value


def _logprobs(value: Any, name: str, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(map(_is_logprob, value)):
        raise InputError(f"{name!r} is not a list of log-probabilities (finite, at most 0)", where=where)
    return tuple(map(float, value))


def _is_logprob(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value <= 0


def _with_unique_ids(answers: list[AnswerRow]) -> list[AnswerRow]:
    """The second row of an id becomes ID-2, and so on; rows with an id of their own keep it."""
    taken = {row.id for row in answers}
    seen: Counter[str] = Counter()
    unique = []
    for row in answers:
        seen[row.id] += 1
        name, number = row.id, seen[row.id]
        while number > 1 and (name := f"{row.id}-{number}") in taken:
            number += 1
        taken.add(name)
        seen[row.id] = max(seen[row.id], number)
        unique.append(row if name == row.id else AnswerRow(**{**row.to_dict(), "id": name}))
    return unique
