"""Which question a row of an answer file answers: its record's id, which other wording, which time it was asked.

Rows are tied by id, never by text. Another wording has the id that a run gives it (`synthesis/wordings.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from relearn.core.errors import InputError
from relearn.data import content_id
from relearn.synthesis.wordings import worded_id, worded_record

Row = dict[str, Any]
_DIGITS = re.compile(r"\s*[0-9]{1,9}\s*", re.ASCII)


def count_in(value: Any, name: str, where: str) -> int | None:
    """The count of a cell, as JSON, CSV and Parquet hold one; None where it is empty."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer() and value >= 0:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{name!r} is not a count", where=where, way_out="write 0, 1, 2, ...")
    return value


def with_ids(placed: Sequence[tuple[str, Row]]) -> list[Row]:
    """Every row with an id: its own, which must be the only one of its name among the answers asked for at one time, or
    one made of its content, the same each time the question was asked.
    """
    _count_repeats([row for _, row in placed])
    _name_wordings(placed)
    taken: dict[str, tuple[str, Row]] = {}
    asked: dict[tuple[str, int], str] = {}
    for where, row in placed:
        if row["id"] is None:
            continue
        key = (row["id"], row.get("repeat", 0))
        if key in asked:
            raise InputError(
                f"the id {row['id']!r} is already that of {asked[key]}", where=where,
                way_out="ids are unique within a file, but for answers told apart by a `repeat` column",
            )  # fmt: skip
        _check_same(where, row, *taken.setdefault(row["id"], (where, row)))
        asked[key] = where
    names = _Names(set(taken))
    for _, row in placed:
        if row["id"] is None:
            row["id"] = names.of(content_id(row["question"], row["reference"]), row.get("repeat", 0))
    return [row for _, row in placed]


def _count_repeats(rows: Sequence[Row]) -> None:
    """The first time is 0, so that a file that counts from 1, or names its seeds, is read the same."""
    rank = {number: place for place, number in enumerate(sorted({row.get("repeat", 0) for row in rows}))}
    for row in rows:
        if "repeat" in row or len(rank) > 1:
            row["repeat"] = rank[row.get("repeat", 0)]


def _check_same(where: str, row: Row, first: str, known: Row) -> None:
    if (row["question"], row["reference"]) != (known["question"], known["reference"]):
        raise InputError(
            f"the id {row['id']!r} has another question or true answer than at {first}", where=where,
            way_out="a `repeat` is the same question asked again; other words of it take a `wording` column",
        )  # fmt: skip


def divided(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """(the questions' own rows, those of other wordings of one of these questions)."""
    ids = {row["id"] for row in rows}
    own = [row for row in rows if worded_record(row["id"]) not in ids]
    return own, [row for row in rows if worded_record(row["id"]) in ids]


def _name_wordings(placed: Sequence[tuple[str, Row]]) -> None:
    """Ids for rows of several wordings of one record, whose lowest number is its own question."""
    lowest: dict[str, int] = {}
    for where, row in placed:
        if row.get("wording") is not None and row["id"] is None:
            raise InputError("a wording without the 'id' of its record", where=where,
                             way_out="give all wordings of a record one id")  # fmt: skip
        if row["id"] is not None:
            lowest[row["id"]] = min(lowest.get(row["id"], row.get("wording") or 0), row.get("wording") or 0)
    for _, row in placed:
        number = row.pop("wording", None) or 0
        if row["id"] is not None and number != lowest[row["id"]]:
            row["id"] = worded_id(row["id"], number)


class _Names:
    """Ids made of content: NAME, and NAME-2, NAME-3, ... where one content stands several times, past those in use."""

    def __init__(self, taken: set[str]):
        self._taken = taken
        self._seen: Counter[tuple[str, int]] = Counter()
        self._made: dict[tuple[str, int], str] = {}

    def of(self, name: str, repeat: int) -> str:
        """The id of the next row of this content in this round of asking; the same in every round."""
        self._seen[name, repeat] += 1
        key = (name, self._seen[name, repeat])
        if key not in self._made:
            self._made[key] = self._free(name, key[1])
        return self._made[key]

    def _free(self, name: str, number: int) -> str:
        while (free := name if number == 1 else f"{name}-{number}") in self._taken:
            number += 1
        self._taken.add(free)
        return free
