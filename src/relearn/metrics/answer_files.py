"""Read files of answers, and export answers with the columns of other tools.

Known columns: question, answer, response; question, reference, response (files of a run folder); query, ground_truth,
generated_response (the public ReLearn code). A map gives the names of other columns. Rows are matched by id, never by
text. Another wording of a question gets the same id as in a run (`synthesis/questions.py`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from relearn.core.config import DataSource
from relearn.core.errors import InputError
from relearn.core.registry import suggest
from relearn.data import content_id
from relearn.data.loaders import read_rows
from relearn.synthesis.questions import record_id_of_wording, wording_id

AnswerFields = dict[str, Any]
PlacedRows = Sequence[tuple[str, AnswerFields]]  # (file and line, row)
_DIGITS = re.compile(r"\s*[0-9]{1,9}\s*", re.ASCII)


def count_in(value: Any, name: str, where: str) -> int | None:
    """Read a count from a cell of JSON, CSV or Parquet; None for an empty cell. Raises InputError for other values."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer() and value >= 0:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{name!r} is not a count", where=where, way_out="write 0, 1, 2, ...")
    return value


def with_ids(placed: PlacedRows) -> list[AnswerFields]:
    """Add an id made of the content to every row without one; it is the same in each repeat.

    Raises InputError for an id that is not unique within a repeat.
    """
    _renumber_repeats([row for _, row in placed])
    _name_wordings(placed)
    first: dict[str, tuple[str, AnswerFields]] = {}
    places: dict[tuple[str, int], str] = {}
    for where, row in placed:
        if row["id"] is None:
            continue
        key = (row["id"], row.get("repeat", 0))
        if key in places:
            raise InputError(
                f"the id {row['id']!r} is already that of {places[key]}",
                where=where,
                way_out="ids are unique within a file, but for answers told apart by a `repeat` column",
            )
        _check_same(where, row, *first.setdefault(row["id"], (where, row)))
        places[key] = where
    ids = _ContentIds(set(first))
    for _, row in placed:
        if row["id"] is None:
            row["id"] = ids.next(content_id(row["question"], row["reference"]), row.get("repeat", 0))
    return [row for _, row in placed]


def _renumber_repeats(rows: Sequence[AnswerFields]) -> None:
    """Renumber the repeats from 0; a file may count from 1 or have seeds instead."""
    rank = {number: place for place, number in enumerate(sorted({row.get("repeat", 0) for row in rows}))}
    for row in rows:
        if "repeat" in row or len(rank) > 1:
            row["repeat"] = rank[row.get("repeat", 0)]


def _check_same(where: str, row: AnswerFields, first_where: str, first: AnswerFields) -> None:
    if (row["question"], row["reference"]) != (first["question"], first["reference"]):
        raise InputError(
            f"the id {row['id']!r} has another question or true answer than at {first_where}",
            where=where,
            way_out="a `repeat` is the same question asked again; other words of it take a `wording` column",
        )


def split_wordings(rows: Sequence[AnswerFields]) -> tuple[list[AnswerFields], list[AnswerFields]]:
    """Split rows into those of the original questions and those of other wordings of these questions."""
    ids = {row["id"] for row in rows}
    own = [row for row in rows if record_id_of_wording(row["id"]) not in ids]
    return own, [row for row in rows if record_id_of_wording(row["id"]) in ids]


def _name_wordings(placed: PlacedRows) -> None:
    """Set the ids of other wordings of a record; the lowest wording number is the original question."""
    lowest: dict[str, int] = {}
    for where, row in placed:
        if row.get("wording") is not None and row["id"] is None:
            raise InputError(
                "a wording without the 'id' of its record", where=where, way_out="give all wordings of a record one id"
            )
        if row["id"] is not None:
            lowest[row["id"]] = min(lowest.get(row["id"], row.get("wording") or 0), row.get("wording") or 0)
    for _, row in placed:
        number = row.pop("wording", None) or 0
        if row["id"] is not None and number != lowest[row["id"]]:
            row["id"] = wording_id(row["id"], number)


class _ContentIds:
    """Make ids from content hashes: HASH, then HASH-2, HASH-3, ... for repeated content, skipping ids in use."""

    def __init__(self, taken: set[str]):
        self._taken = taken
        self._seen: Counter[tuple[str, int]] = Counter()
        self._ids: dict[tuple[str, int], str] = {}

    def next(self, name: str, repeat: int) -> str:
        """Return the id of the next row of this content in this repeat; the same in every repeat."""
        self._seen[name, repeat] += 1
        key = (name, self._seen[name, repeat])
        if key not in self._ids:
            self._ids[key] = self._free(name, key[1])
        return self._ids[key]

    def _free(self, name: str, number: int) -> str:
        while (free := name if number == 1 else f"{name}-{number}") in self._taken:
            number += 1
        self._taken.add(free)
        return free


LAYOUTS = (
    ("question", "reference", "response"),
    ("question", "answer", "response"),
    ("query", "ground_truth", "generated_response"),
)
RELEARN_CODE = LAYOUTS[2]
MAPPABLE = ("question", "answer", "response", "id", "subject", "wording", "repeat")
FORMS = ("chat", "text")
_COUNTS = ("wording", "repeat")
_RESPONSES = frozenset(layout[2] for layout in LAYOUTS)
_ALWAYS = ("reference_logprobs", "response_logprobs")
# Lone surrogates (an answer cut inside an emoji) cannot be written to a file.
_SURROGATES = re.compile("[\ud800-\udfff]")


def read_answers(source: DataSource) -> list[dict[str, Any]]:
    """Read answer rows from a JSON, JSON lines, CSV or Parquet file, with the fields of a run folder's files.

    Each row has id, question, reference, subject, form, response, reference_logprobs, response_logprobs, and the other
    fields of `AnswerRow` that the file has. A row without an id gets the hash of question and reference, with -2, -3
    for repeated content. A row with a `wording` number gets the same id as in a run. `repeat` counts from 0. Raises
    InputError for columns that match no known layout or several, for a missing, null or wrong-typed field (a null
    answer is not an empty answer) and for an id that occurs twice within a repeat.
    """
    placed = read_rows(source)[: source.limit]
    if not placed:
        raise InputError("no rows", where=source.path, way_out="give at least one")
    columns = list(dict.fromkeys(str(column) for _, values in placed for column in values))
    layout = _layout(columns, source.map, placed[0][0])
    return with_ids([(where, _row(values, layout, source.map, where)) for where, values in placed])


def has_responses(source: DataSource) -> bool:
    """Return True if a file has a column of responses, with a known name or the name in `source.map`."""
    columns = {column for _, values in read_rows(source)[: source.limit] for column in values}
    return bool(columns & (_RESPONSES | {source.map.get("response")}))


def exported(rows: Iterable[Mapping[str, Any]], layout: tuple[str, str, str] = RELEARN_CODE) -> list[dict[str, str]]:
    """Export question, reference and response of a run folder's rows with the column names of `layout`, in order."""
    return [dict(zip(layout, (row["question"], row["reference"], row["response"]), strict=True)) for row in rows]


def _layout(columns: list[str], mapped: Mapping[str, str], where: str) -> tuple[str, str, str]:
    for name, column in mapped.items():
        if name not in MAPPABLE:
            raise InputError(
                f"the map names {name!r}, which no answer has", where=where, way_out=suggest(name, list(MAPPABLE))
            )
        if column not in columns:
            raise InputError(
                f"the map gives {name!r} the column {column!r}, the columns are {_listed(columns)}",
                where=where,
                way_out=suggest(column, columns),
            )
    if mapped.keys() & {"question", "answer", "response"}:
        question, answer, response = (mapped.get(name, name) for name in LAYOUTS[1])
        layouts = [(question, answer, response)]
    else:
        layouts = [layout for layout in LAYOUTS if set(layout) <= set(columns)]
    if len(layouts) > 1:
        both = " and ".join("/".join(layout) for layout in layouts)
        raise InputError(
            f"the columns {_listed(columns)} fit {both}", where=where, way_out=f"say which: --map {_as_map(layouts[0])}"
        )
    if not layouts or not set(layouts[0]) <= set(columns):
        raise _no_answers(columns, where)
    return layouts[0]


def _as_map(layout: tuple[str, str, str]) -> str:
    return ",".join(f"{name}={column}" for name, column in zip(LAYOUTS[1], layout, strict=True))


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(repr, columns)) or "(none)"


def _no_answers(columns: Iterable[str], where: str) -> InputError:
    return InputError(
        f"the fields {_listed(columns)} hold no answers",
        where=where,
        way_out=" or ".join(", ".join(names) for names in LAYOUTS),
    )


def _row(values: Mapping[str, Any], layout: tuple[str, str, str], mapped: Mapping[str, str], where: str) -> dict:
    if not set(layout) <= set(values):
        raise _no_answers(values, where)
    question, reference, response = (_text(values[name], name, where) for name in layout)
    subject = values.get(mapped.get("subject", "subject"))
    form = values.get("form")
    return {
        "id": _id(values.get(mapped.get("id", "id")), where),
        "question": question,
        "reference": reference,
        "subject": None if subject in (None, "") else _text(subject, "subject", where),
        "form": form if form in FORMS else "chat",
        "response": response,
        **_measured(values, where),
        **_kinds(values),
        **_counts(values, mapped, where),
    }


def _text(value: Any, name: str, where: str) -> str:
    if value is None:
        raise InputError(f"{name!r} is null", where=where, way_out="leave the row out, or write the text, empty or not")
    if not isinstance(value, str):
        raise InputError(f"{name!r} is a {type(value).__name__}, not a text", where=where)
    return _SURROGATES.sub("\ufffd", value)


def _id(value: Any, where: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"'id' is a {type(value).__name__}, not a text", where=where)
    return _SURROGATES.sub("\ufffd", str(value))


def _measured(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check and return the values measured on models; the two that every row of a run has are None if absent."""
    measured: dict[str, Any] = dict.fromkeys(_ALWAYS)
    for name, (is_valid, expected) in _MEASURED.items():
        value = values.get(name)
        if value is None or value == "":
            continue
        if not is_valid(value):
            raise InputError(f"{name!r} is not {expected}", where=where)
        measured[name] = value
    length = len(measured["reference_logprobs"] or ())
    for name in ("reference_hits", "reference_moments"):
        if name in measured and len(measured[name]) != length:
            raise InputError(f"{name!r} has {len(measured[name])} entries, 'reference_logprobs' {length}", where=where)
    return measured


def _counts(values: Mapping[str, Any], mapped: Mapping[str, str], where: str) -> dict[str, int]:
    """Return the wording and repeat numbers that the row has."""
    counts = {name: count_in(values.get(mapped.get(name, name)), name, where) for name in _COUNTS}
    return {name: count for name, count in counts.items() if count is not None}


def _kinds(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return tags, choices and `cut_off` if these columns have the types of a run's files.

    Other tools use the same column names for other values.
    """
    fields = {name: values[name] for name in ("tags", "choices") if _are_texts(values.get(name))}
    if values.get("cut_off") is True:
        fields["cut_off"] = True
    if _is_count(values.get("choice")) and values["choice"] < len(fields.get("choices", ())):
        fields["choice"] = values["choice"]
    return fields


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(text, str) for text in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_logprobs(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_is_number(number) and number <= 0 for number in value)


def _are_lists_of_logprobs(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_are_logprobs, value))


def _are_hits(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(hit, int) and hit in (0, 1) for hit in value)


def _are_moments(value: Any) -> bool:
    pairs = isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value)
    return pairs and all(_is_number(number) for pair in value for number in pair)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_LOGPROBS = (_are_logprobs, "a list of log-probabilities (finite, at most 0)")
_MEASURED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "reference_logprobs": _LOGPROBS,
    "response_logprobs": _LOGPROBS,
    "paraphrased_logprobs": _LOGPROBS,
    "base_logprobs": _LOGPROBS,
    "perturbed_logprobs": (_are_lists_of_logprobs, "a list of lists of log-probabilities"),
    "reference_hits": (_are_hits, "a list of 1 and 0"),
    "reference_moments": (_are_moments, "a list of pairs of numbers"),
    "closing_tokens": (_is_count, "a count"),
    "letter_logprobs": _LOGPROBS,
    "choice_logprobs": _LOGPROBS,
}
