"""Texts to token rows. The ONLY place that decides which tokens are answer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relearn.core.errors import InputError
from relearn.data import Form, Record
from relearn.engine.forward import TokenRow
from relearn.models.chat import ChatFormat


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
    begun = [_begun(chat, example) for example in examples]
    targets = [_target(chat, example) for example in examples]
    prompts = list(dict.fromkeys(begun))
    prompt_ids = dict(zip(prompts, _ids(chat, prompts), strict=True))
    joint_ids = _ids(chat, [prompt + target for prompt, target in zip(begun, targets, strict=True)])
    rows = []
    for example, prompt, target, joint in zip(examples, begun, targets, joint_ids, strict=True):
        given = prompt_ids[prompt]
        # Tokens may merge over the border; generation sees the prompt alone, so the prompt's own tokens win.
        ids = joint if joint[: len(given)] == given else given + _ids(chat, [target])[0]
        if max_length is not None and len(ids) > max_length:
            raise InputError(
                f"row {example.id} has {len(ids)} tokens, the limit is {max_length}",
                way_out="raise unlearn.max_length, or give the text as document records",
            )
        rows.append(TokenRow(example.id, tuple(ids), len(given)))
    return rows


def closing_tokens(chat: ChatFormat, row: TokenRow) -> int:
    """How many of the row's last tokens are the end of the turn and no part of the answer."""
    end = tuple(_ids(chat, [chat.end])[0])
    return len(end) if end and row.ids[-len(end) :] == end else 0


def _begun(chat: ChatFormat, example: Example) -> str:
    prompt = chat.prompt(example.prompt, example.form)
    return prompt + chat.target(example.given, example.form, closed=False) if example.given else prompt


def _target(chat: ChatFormat, example: Example) -> str:
    # What follows a given beginning is set off from it as words are, whatever the template.
    return chat.target(example.target, "text" if example.given else example.form, closed=example.closed)


def _ids(chat: ChatFormat, texts: Sequence[str]) -> list[list[int]]:
    """All at once: a fast tokenizer then works in several threads."""
    return chat.tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
