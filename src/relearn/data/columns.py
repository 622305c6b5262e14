"""Map the columns of a data file to record fields, and validate the cells of each row.

`find_layout` finds the columns of question and answer by the column names, or by the recipe's `map`. `to_records`
converts a row to records. A question that asks nothing and begins a text (`begins_text`) gives a passage, a record of
`form` "text". A row without a known question-answer pair of columns but with a column `text` is a document:
each chunk of `chunk_words` words is one record of `form` "text", with the first quarter as question and the rest as
answer. In a row with a list of turns (`MESSAGES`, or prompt and completion), every user turn with its answer is one
record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from relearn.core.errors import InputError
from relearn.core.registry import suggest
from relearn.data import multiple_choice
from relearn.data.record import TAG_COLUMNS, Form, Record, Split, add_fill_in_instruction, begins_text, read_tags

RawRow = tuple[str, Mapping[str, Any]]  # (place in the file, column -> cell)

PAIRS: tuple[tuple[str, str], ...] = (
    ("question", "answer"),
    ("text", "labels"),
    ("instruction", "output"),
    ("query", "ground_truth"),
    ("prompt", "completion"),
    ("prompt", "target"),
)
# Pairs used by benchmarks, tried where none of PAIRS fits.
BENCHMARK_PAIRS: tuple[tuple[str, str], ...] = (
    ("query", "answer"),
    ("prompt", "gt"),
    ("question", "answerKey"),
    ("question_stem", "answerKey"),
    ("question", "mc1_targets"),
)
# MUSE's verbatim test: a passage and its continuation.
VERBATIM_PAIR = ("prompt", "gt")
DOCUMENT = "text"
# Columns of conversations: a list of turns with a role and a text (ShareGPT, OpenAI, TRL).
MESSAGES = ("messages", "conversations", "conversation")
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
# Control characters but new line and tab, and surrogates.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
PREFIX_SHARE = 0.25
MIN_CHUNK_WORDS = 8

# Record field -> accepted column names, in order of preference.
_LISTS = {
    "choices": multiple_choice.COLUMNS,
    "paraphrases": ("paraphrases", "paraphrased_question"),
    "alternatives": ("alternatives", "perturbed_answer"),
}
_OPTIONAL = {**{name: (name,) for name in ("id", "subject", "source", "paraphrased_answer")}, **_LISTS}
_MAPPABLE = ("question", "answer", "text", "messages", "tags", *_OPTIONAL)
_PRIVATE = frozenset({"answer", "text", "paraphrased_answer", "alternatives", "choices"})


@dataclass(frozen=True)
class ColumnLayout:
    """Map record fields to column names.

    The layout of a document has `text` instead of question and answer, that of a conversation has `messages`.
    """

    question: str | None = None
    answer: str | None = None
    text: str | None = None
    messages: str | None = None
    context: str | None = None
    tags: tuple[str, ...] = ()
    optional: Mapping[str, str] = field(default_factory=dict)


def find_layout(columns: list[str], mapped: Mapping[str, str], where: str) -> ColumnLayout:
    """Find the column of each record field. `mapped`: the recipe's `map`, field -> column; `where`: path of the file.

    Raises InputError where the columns fit no layout or more than one, or `mapped` names an unknown field or column.
    """
    _check_map(columns, mapped, where)
    optional = {name: column for name, names in _OPTIONAL.items() if (column := _pick(name, names, columns, mapped))}
    tags = (mapped["tags"],) if "tags" in mapped else tuple(name for name in TAG_COLUMNS if name in columns)
    if whole := mapped.keys() & {"text", "messages"}:
        return ColumnLayout(**{name: mapped[name] for name in whole}, tags=tags, optional=optional)
    if mapped.keys() & {"question", "answer"}:
        names = {name: mapped.get(name, name) for name in ("question", "answer")}
        for name, column in names.items():
            if column not in columns:
                problem = f"no column for {name!r} among {_listed(columns)}"
                raise InputError(problem, where=where, way_out=f"add it to the map: {{{name}: COLUMN}}")
        return ColumnLayout(names["question"], names["answer"], tags=tags, optional=optional)
    return replace(_known_layout(columns, optional, where), tags=tags)


def _known_layout(columns: list[str], optional: Mapping[str, str], where: str) -> ColumnLayout:
    fitting = [pair for pair in (*PAIRS, *BENCHMARK_PAIRS) if set(pair) <= set(columns)]
    pairs = [pair for pair in fitting if pair in PAIRS] or fitting
    if len(pairs) > 1:
        question, answer = pairs[0]
        problem = f"the columns {_listed(columns)} fit {' and '.join('/'.join(pair) for pair in pairs)}"
        raise InputError(problem, where=where, way_out=f"say which: map: {{question: {question}, answer: {answer}}}")
    if pairs:
        question, answer = pairs[0]
        context = "input" if question == "instruction" and "input" in columns else None
        return ColumnLayout(question, answer, context=context, optional=optional)
    if messages := next((name for name in MESSAGES if name in columns), None):
        return ColumnLayout(messages=messages, optional=optional)
    if DOCUMENT in columns:
        return ColumnLayout(text=DOCUMENT, optional=optional)
    way_out = "name them: map: {question: COLUMN, answer: COLUMN}; {text: COLUMN} for documents, {messages: COLUMN}"
    raise InputError(f"no known pair of columns among {_listed(columns)}", where=where, way_out=way_out)


def _check_map(columns: list[str], mapped: Mapping[str, str], where: str) -> None:
    for name, column in mapped.items():
        if name not in _MAPPABLE:
            way_out = suggest(name, list(_MAPPABLE))
            raise InputError(f"map names {name!r}, which no record has", where=where, way_out=way_out)
        if column not in columns:
            problem = f"map gives {name!r} the column {column!r}, the columns are {_listed(columns)}"
            raise InputError(problem, where=where, way_out=suggest(column, columns))
    named = [names for names in ({"text"}, {"messages"}, {"question", "answer"}) if names & mapped.keys()]
    if len(named) > 1:
        both = " and ".join(" or ".join(sorted(names, reverse=True)) for names in named)
        raise InputError(f"map names both {both}", where=where, way_out="a row is one or the other")


def _pick(name: str, names: tuple[str, ...], columns: list[str], mapped: Mapping[str, str]) -> str | None:
    if name in mapped:
        return mapped[name]
    return next((column for column in names if column in columns), None)


def _listed(columns: list[str]) -> str:
    return ", ".join(map(repr, columns)) or "(none)"


def to_records(row: RawRow, layout: ColumnLayout, split: Split, chunk_words: int) -> Iterator[tuple[str, Record]]:
    """Convert a row to records: yield (place, record), one for a question, several for a document.

    Raises InputError for a missing or empty field, a wrong type, a control character, or choices without a correct one.
    """
    where, values = row
    optional = _optional_fields(values, layout, where)
    if tags := read_tags(values, layout.tags):
        optional["tags"] = tags
    if layout.text is not None:
        yield from _chunks(row, layout.text, optional, split=split, chunk_words=chunk_words)
        return
    if layout.messages is not None or _is_turns(values.get(layout.answer or "")):
        yield from _conversation(row, layout, optional, split=split)
        return
    assert layout.question is not None and layout.answer is not None
    question = _required(values, layout.question, where, private=False)
    if layout.context is not None and values.get(layout.context):
        question = f"{question}\n\n{_text(values[layout.context], layout.context, where, private=False)}"
    if tags:
        question = add_fill_in_instruction(question)
    choices = _choice_fields(values, layout, where)
    answer = choices.pop("answer", None) or _required(values, layout.answer, where, private=True)
    is_passage = split != "generic" and not choices and begins_text(question, answer)
    form: Form = "text" if is_passage or (layout.question, layout.answer) == VERBATIM_PAIR else "chat"
    yield where, Record(question, answer, split=split, form=form, **optional, **choices)


def _is_turns(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def _conversation(
    row: RawRow, layout: ColumnLayout, optional: Mapping[str, Any], *, split: Split
) -> Iterator[tuple[str, Record]]:
    """Yield a record for every user turn with its answer. Raises InputError for turns that are no such pairs."""
    where, values = row
    columns = [name for name in (layout.messages, layout.question, layout.answer) if name]
    turns = [turn for name in columns for turn in _turns(values, name, where)]
    turns = [(role, text) for role, text in turns if role != "system"]
    pairs = list(zip(turns[::2], turns[1::2], strict=False))
    is_paired = all((first[0], second[0]) == ("user", "assistant") for first, second in pairs)
    if not pairs or len(turns) % 2 or not is_paired:
        problem = f"{'/'.join(columns)!r} has the turns {', '.join(role for role, _ in turns) or '(none)'}"
        raise InputError(problem[:300], where=where, way_out="every user turn needs the assistant's answer after it")
    for number, ((_, question), (_, answer)) in enumerate(pairs, start=1):
        fields = dict(optional)
        if "id" in fields and len(pairs) > 1:
            fields["id"] = f"{fields['id']}#{number}"
        yield where + (f" turn {number}" if len(pairs) > 1 else ""), Record(question, answer, split=split, **fields)


def _turns(values: Mapping[str, Any], column: str, where: str) -> Iterator[tuple[str, str]]:
    """Yield (role, text) of the turns in a cell; role is user, assistant or system."""
    if isinstance(values.get(column), str) and column == "prompt":
        yield "user", _required(values, column, where, private=False)
        return
    if not _is_turns(values.get(column)):
        raise InputError(f"the field {column!r} is no list of turns", where=where, way_out=_TURN)
    for number, turn in enumerate(values[column]):
        role, name = _role(turn), "content" if "content" in turn else "value"
        if role is None:
            shown = glimpse(turn.get("role", turn.get("from")))
            raise InputError(f"{column}[{number}] has the role {shown}", where=where, way_out=_TURN)
        content, place = turn.get(name), f"{where} {column}[{number}]"
        if _is_turns(content):  # parts of a content: {"type": "text", "text": ...}
            content = "\n".join(_required(part, "text", place, private=True) for part in content)
        yield role, _required({name: content}, name, place, private=role == "assistant")


def _role(turn: Mapping[str, Any]) -> str | None:
    """Return user, assistant or system; None for another role."""
    role = turn.get("role", turn.get("from"))
    return _ROLES.get(role) if isinstance(role, str) else None


def notes_on_turns(rows: Iterable[RawRow], layout: ColumnLayout) -> Iterator[str]:
    """Yield messages on parts of conversations that records do not have: system texts, and earlier turns."""
    cells = [row.get(layout.messages or layout.question or "") for _, row in rows]
    conversations = [list(cell or ()) for cell in cells if _is_turns(cell)]
    roles = [[_role(turn) for turn in turns] for turns in conversations]
    if count := sum("system" in of_row for of_row in roles):
        yield f"the system texts of {count:,} conversations are left out; model.system_prompt sets one for all"
    if count := sum(of_row.count("user") > 1 for of_row in roles):
        yield f"{count:,} conversations have several turns; each question is a record of its own, without earlier turns"


_TURN = 'a turn is {"role": "user" or "assistant", "content": TEXT}, or {"from": "human" or "gpt", "value": TEXT}'


def _choice_fields(values: Mapping[str, Any], layout: ColumnLayout, where: str) -> dict[str, Any]:
    """Return the fields `choices`, `choice` and `answer` of a multiple-choice row; an empty dict for other rows."""
    column = layout.optional.get("choices")
    if column is None or values.get(column) in (None, "", []):
        return {}
    assert layout.answer is not None
    choices = multiple_choice.parse_choices(values[column], where, column)
    texts = tuple(_text(text, column, where, private=True) for text in choices.texts)
    answer = values.get(layout.answer)
    if answer is None or answer == "":
        raise InputError(f"the field {layout.answer!r} is missing", where=where)
    correct = multiple_choice.correct_choice(answer, choices, where=where, column=layout.answer)
    return {"choices": texts, "choice": correct, "answer": multiple_choice.answer_text(answer, texts[correct])}


def _chunks(
    row: RawRow, column: str, optional: Mapping[str, Any], *, split: Split, chunk_words: int
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
        fields = dict(optional)
        if "id" in fields:
            fields["id"] = f"{fields['id']}#{number}"
        place = f"{where} words {first + 1}-{last}"
        fields.setdefault("source", place)
        yield place, Record(prefix, rest, split=split, form="text", **fields)


def _chunk_bounds(words: int, size: int) -> list[tuple[int, int]]:
    """Split a number of words into ranges of `size`; a last range under MIN_CHUNK_WORDS is merged with the previous."""
    bounds = [(start, min(start + size, words)) for start in range(0, words, size)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] < MIN_CHUNK_WORDS:
        bounds[-2:] = [(bounds[-2][0], words)]
    return bounds


def _optional_fields(values: Mapping[str, Any], layout: ColumnLayout, where: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, column in layout.optional.items():
        value = values.get(column)
        if name == "choices" or value is None or value == "" or value == []:
            continue
        private = name in _PRIVATE
        if name in _LISTS:
            entries = value if isinstance(value, list | tuple) else [value]
            fields[name] = tuple(_text(entry, column, where, private=private) for entry in entries)
        elif name == "id" and isinstance(value, int) and not isinstance(value, bool):
            fields[name] = str(value)
        else:
            fields[name] = _text(value, column, where, private=private)
    return fields


def _required(values: Mapping[str, Any], column: str, where: str, *, private: bool) -> str:
    if values.get(column) is None:
        raise InputError(f"the field {column!r} is missing", where=where)
    text = _text(values[column], column, where, private=private)
    if not text.strip():
        raise InputError(f"the field {column!r} is empty", where=where)
    return text


def _text(value: Any, column: str, where: str, *, private: bool) -> str:
    """Return `value` with Unix line ends. Raises InputError where it is no text or contains a control character."""
    if not isinstance(value, str):
        problem = f"the field {column!r} is {glimpse(value, private)}, of type {type(value).__name__}, not a text"
        raise InputError(problem, where=where)
    text = value.replace("\r\n", "\n")
    if odd := _CONTROL.search(text):
        problem = f"the field {column!r} has the control character U+{ord(odd[0]):04X} at position {odd.start()}"
        raise InputError(problem, where=where, way_out="remove it; new line and tab are fine")
    return text


def glimpse(value: Any, private: bool = False) -> str:
    """Shorten a value for an error message: to 60 characters; a private value to 12, and to at most half of it."""
    shown = repr(value)
    limit = min(12, len(shown) // 2) if private else 60
    return shown if len(shown) <= limit else shown[:limit] + "…"
