"""Texts to token rows. The ONLY place that decides which tokens are answer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relearn.errors import InputError
from relearn.models.chat import ChatFormat
from relearn.models.forward import TokenRow
from relearn.records import Form, Record


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the target to be learned; `closed` ends the target with the end of turn.

    `given` is a beginning of the answer that is not learned.
    """

    id: str
    prompt: str
    target: str
    form: Form = "chat"
    closed: bool = True
    given: str = ""


def record_example(record: Record) -> Example:
    """A record as it stands. A passage of a document goes on after its chunk, so it is not closed."""
    return Example(record.id, record.question, record.answer, record.form, closed=record.form == "chat")


def encode(chat: ChatFormat, examples: Sequence[Example], *, max_length: int | None = None) -> list[TokenRow]:
    """One row per example, in order. Never truncates: a row over `max_length` tokens is an InputError."""
    rows = [_encode_one(chat, example) for example in examples]
    for row in rows:
        if max_length is not None and len(row.ids) > max_length:
            raise InputError(
                f"row {row.id} has {len(row.ids)} tokens, the limit is {max_length}",
                way_out="raise unlearn.max_length, or give the text as document records",
            )
    return rows


def closing_tokens(chat: ChatFormat, row: TokenRow) -> int:
    """How many of the row's last tokens are the end of the turn and no part of the answer."""
    end = tuple(_ids(chat, chat.end))
    return len(end) if end and row.ids[-len(end) :] == end else 0


def _encode_one(chat: ChatFormat, example: Example) -> TokenRow:
    begun = chat.prompt(example.prompt, example.form)
    if example.given:
        begun += chat.target(example.given, example.form, closed=False)
    prompt = _ids(chat, begun)
    # What follows a given beginning is set off from it as words are, whatever the template.
    target = chat.target(example.target, "text" if example.given else example.form, closed=example.closed)
    joint = _ids(chat, begun + target)
    # Tokens may merge over the border; generation sees the prompt alone, so the prompt's own tokens win.
    ids = joint if joint[: len(prompt)] == prompt else prompt + _ids(chat, target)
    return TokenRow(example.id, tuple(ids), len(prompt))


def _ids(chat: ChatFormat, text: str) -> list[int]:
    return chat.tokenizer(text, add_special_tokens=False).input_ids
