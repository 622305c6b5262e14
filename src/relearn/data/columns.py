"""From the columns of a file to records: which column is the question, which the answer, and what a row may hold.

The layout is read from the column names alone, or from the recipe's `map`; it is never guessed from a path. Rows
without a known pair but with `text` are documents: each chunk of `chunk_words` words becomes one record of `form`
"text", whose first quarter is the prefix and whose rest is the continuation.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from relearn.core.errors import InputError
from relearn.core.registry import suggest
from relearn.data import multiple_choice
from relearn.data.record import COLUMNS, Form, Record, Split, as_asked, tags_of

Row = tuple[str, Mapping[str, Any]]

PAIRS: tuple[tuple[str, str], ...] = (
    ("question", "answer"),
    ("text", "labels"),
    ("instruction", "output"),
    ("query", "ground_truth"),
    ("prompt", "completion"),
    ("prompt", "target"),
)
# Those of benchmarks, looked for where none of the above fits.
BENCHMARK_PAIRS: tuple[tuple[str, str], ...] = (
    ("query", "answer"),
    ("prompt", "gt"),
    ("question", "answerKey"),
    ("question_stem", "answerKey"),
    ("question", "mc1_targets"),
)
# MUSE's verbatim test: a passage and how it goes on.
CONTINUED = ("prompt", "gt")
DOCUMENT = "text"
PREFIX_SHARE = 0.25
MINIMUM_CHUNK = 8

# Record field -> the column names it is known by, the field's own name first.
_TEXTS = {"id": ("id",), "subject": ("subject",), "source": ("source",), "paraphrased_answer": ("paraphrased_answer",)}
_LISTS = {
    "choices": multiple_choice.COLUMNS,
    "paraphrases": ("paraphrases", "paraphrased_question"),
    "alternatives": ("alternatives", "perturbed_answer"),
}
_OPTIONAL = {**_TEXTS, **_LISTS}
_MAPPABLE = ("question", "answer", "text", "tags", *_OPTIONAL)
_PRIVATE = frozenset({"answer", "text", "paraphrased_answer", "alternatives", "choices"})


@dataclass(frozen=True)
class Layout:
    """Which column feeds which field of a record. A document layout has `text` in place of question and answer."""

    question: str | None = None
    answer: str | None = None
    text: str | None = None
    context: str | None = None
    tags: tuple[str, ...] = ()
    optional: Mapping[str, str] = field(default_factory=dict)


def find_layout(columns: list[str], mapped: Mapping[str, str], where: str) -> Layout:
    """The layout of a file with these columns; raises `InputError` where they fit none or more than one."""
    _check_map(columns, mapped, where)
    optional = {name: column for name, known in _OPTIONAL.items() if (column := _pick(name, known, columns, mapped))}
    tagged = (mapped["tags"],) if "tags" in mapped else tuple(name for name in COLUMNS if name in columns)
    if "text" in mapped:
        return Layout(text=mapped["text"], optional=optional)
    if mapped.keys() & {"question", "answer"}:
        names = {name: mapped.get(name, name) for name in ("question", "answer")}
        for name, column in names.items():
            if column not in columns:
                raise InputError(
                    f"no column for {name!r} among {_listed(columns)}",
                    where=where,
                    way_out=f"add it to the map: {{{name}: COLUMN}}",
                )
        return Layout(names["question"], names["answer"], tags=tagged, optional=optional)
    return replace(_known_layout(columns, optional, where), tags=tagged)


def _known_layout(columns: list[str], optional: Mapping[str, str], where: str) -> Layout:
    fitting = [pair for pair in (*PAIRS, *BENCHMARK_PAIRS) if set(pair) <= set(columns)]
    found = [pair for pair in fitting if pair in PAIRS] or fitting
    if len(found) > 1:
        question, answer = found[0]
        raise InputError(
            f"the columns {_listed(columns)} fit {' and '.join('/'.join(pair) for pair in found)}",
            where=where,
            way_out=f"say which: map: {{question: {question}, answer: {answer}}}",
        )
    if found:
        question, answer = found[0]
        context = "input" if question == "instruction" and "input" in columns else None
        return Layout(question, answer, context=context, optional=optional)
    if DOCUMENT in columns:
        return Layout(text=DOCUMENT, optional=optional)
    raise InputError(
        f"no known pair of columns among {_listed(columns)}",
        where=where,
        way_out="name them: map: {question: COLUMN, answer: COLUMN}, or map: {text: COLUMN} for documents",
    )


def _check_map(columns: list[str], mapped: Mapping[str, str], where: str) -> None:
    for name, column in mapped.items():
        if name not in _MAPPABLE:
            raise InputError(
                f"map names {name!r}, which no record has", where=where, way_out=suggest(name, list(_MAPPABLE))
            )
        if column not in columns:
            raise InputError(
                f"map gives {name!r} the column {column!r}, the columns are {_listed(columns)}",
                where=where,
                way_out=suggest(column, columns),
            )
    if "text" in mapped and mapped.keys() & {"question", "answer"}:
        raise InputError("map names both text and question or answer", where=where, way_out="a row is one or the other")


def _pick(name: str, known: tuple[str, ...], columns: list[str], mapped: Mapping[str, str]) -> str | None:
    if name in mapped:
        return mapped[name]
    return next((column for column in known if column in columns), None)


def _listed(columns: list[str]) -> str:
    return ", ".join(map(repr, columns)) or "(none)"


def to_records(row: Row, layout: Layout, split: Split, chunk_words: int) -> Iterator[tuple[str, Record]]:
    """The record of a row, or those of a document's chunks, each with the place it comes from."""
    where, values = row
    optional = _optional_fields(values, layout, where)
    if kinds := tags_of(values, layout.tags):
        optional["tags"] = kinds
    if layout.text is not None:
        yield from _chunks(row, layout.text, optional, split, chunk_words)
        return
    assert layout.question is not None and layout.answer is not None
    question = _required(values, layout.question, where, private=False)
    if layout.context is not None and values.get(layout.context):
        question = f"{question}\n\n{_text(values[layout.context], layout.context, where, private=False)}"
    if kinds:
        question = as_asked(question)
    chosen = _chosen(values, layout, where)
    answer = chosen.pop("answer", None) or _required(values, layout.answer, where, private=True)
    form: Form = "text" if (layout.question, layout.answer) == CONTINUED else "chat"
    yield where, Record(question, answer, split=split, form=form, **optional, **chosen)


def _chosen(values: Mapping[str, Any], layout: Layout, where: str) -> dict[str, Any]:
    """Of a multiple-choice row its choices, which is right, and the answer, unless that is a text of its own."""
    column = layout.optional.get("choices")
    if column is None or values.get(column) in (None, "", []):
        return {}
    assert layout.answer is not None
    found = multiple_choice.offered(values[column], where, column)
    texts = tuple(_text(text, column, where, private=True) for text in found.texts)
    answer = values.get(layout.answer)
    if answer is None or answer == "":
        raise InputError(f"the field {layout.answer!r} is missing", where=where)
    right = multiple_choice.right_choice(answer, found, where, layout.answer)
    return {"choices": texts, "choice": right, "answer": multiple_choice.spelled(answer, texts[right])}


def _chunks(
    row: Row, column: str, optional: Mapping[str, Any], split: Split, chunk_words: int
) -> Iterator[tuple[str, Record]]:
    where, values = row
    text = _required(values, column, where, private=True)
    words = [match.span() for match in re.finditer(r"\S+", text)]
    if len(words) < 2:
        raise InputError("a document of one word cannot be continued", where=where, way_out="give two words or more")
    for number, (first, last) in enumerate(_chunk_bounds(len(words), chunk_words), start=1):
        cut = first + max(1, round((last - first) * PREFIX_SHARE))
        prefix = text[words[first][0] : words[cut - 1][1]]
        rest = text[words[cut][0] : words[last - 1][1]]
        own = dict(optional)
        if "id" in own:
            own["id"] = f"{own['id']}#{number}"
        place = f"{where} words {first + 1}-{last}"
        own.setdefault("source", place)
        yield place, Record(prefix, rest, split=split, form="text", **own)


def _chunk_bounds(words: int, size: int) -> list[tuple[int, int]]:
    """Word ranges of `size`; a tail too short to be worth a row of its own joins the last one."""
    bounds = [(start, min(start + size, words)) for start in range(0, words, size)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] < MINIMUM_CHUNK:
        bounds[-2:] = [(bounds[-2][0], words)]
    return bounds


def _optional_fields(values: Mapping[str, Any], layout: Layout, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, column in layout.optional.items():
        value = values.get(column)
        if name == "choices" or value is None or value == "" or value == []:
            continue
        private = name in _PRIVATE
        if name in _LISTS:
            entries = value if isinstance(value, list | tuple) else [value]
            found[name] = tuple(_text(entry, column, where, private) for entry in entries)
        elif name == "id" and isinstance(value, int) and not isinstance(value, bool):
            found[name] = str(value)
        else:
            found[name] = _text(value, column, where, private)
    return found


def _required(values: Mapping[str, Any], column: str, where: str, private: bool) -> str:
    if values.get(column) is None:
        raise InputError(f"the field {column!r} is missing", where=where)
    text = _text(values[column], column, where, private)
    if not text.strip():
        raise InputError(f"the field {column!r} is empty", where=where)
    return text


def _text(value: Any, column: str, where: str, private: bool) -> str:
    """`value` as a checked text, Windows line ends as plain ones; wrong types and control characters are refused."""
    if not isinstance(value, str):
        raise InputError(
            f"the field {column!r} is {glimpse(value, private)}, of type {type(value).__name__}, not a text",
            where=where,
        )
    text = value.replace("\r\n", "\n")
    for position, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
            raise InputError(
                f"the field {column!r} has the control character U+{ord(character):04X} at position {position}",
                where=where,
                way_out="remove it; new line and tab are fine",
            )
    return text


def glimpse(value: Any, private: bool = False) -> str:
    """A value short enough for a message; of a private one at most half, and never more than twelve characters."""
    shown = repr(value)
    limit = min(12, len(shown) // 2) if private else 60
    return shown if len(shown) <= limit else shown[:limit] + "…"
