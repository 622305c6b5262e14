"""Encode prompts and answers as token rows; ONLY this module decides which tokens are answer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relearn.core.errors import InputError
from relearn.data import Form, Record
from relearn.engine.forward import TokenRow
from relearn.models.chat import ChatFormat


@dataclass(frozen=True, slots=True)
class Example:
    """Hold a prompt and the target text to learn.

    `closed`: the end of turn follows the target. `given`: a prefix of the answer that is part of the prompt, so that it
    is not learned.
    """

    id: str
    prompt: str
    target: str
    form: Form = "chat"
    closed: bool = True
    given: str = ""


def record_example(record: Record) -> Example:
    """Make an example from a record; a passage of a document gets no end of turn, because its text goes on."""
    return Example(record.id, record.question, record.answer, record.form, closed=record.form == "chat")


def encode(chat: ChatFormat, examples: Sequence[Example], *, max_length: int | None = None) -> list[TokenRow]:
    """Encode each example as one token row, in the same order; rows are never truncated.

    The answer follows the prompt directly: the thoughts of a reasoning model are empty and not part of the answer.
    Raises InputError for a row of more than `max_length` tokens.
    """
    prompt_texts = [_prompt(chat, example) for example in examples]
    targets = [_target(chat, example) for example in examples]
    prompts = list(dict.fromkeys(prompt_texts))
    prompt_ids = dict(zip(prompts, _ids(chat, prompts), strict=True))
    joint_ids = _ids(chat, [prompt + target for prompt, target in zip(prompt_texts, targets, strict=True)])
    rows = []
    for example, prompt, target, joint in zip(examples, prompt_texts, targets, joint_ids, strict=True):
        begin = prompt_ids[prompt]
        # A token may span the end of the prompt. Generation gets the prompt alone, so the prompt's own tokens are kept.
        ids = joint if joint[: len(begin)] == begin else begin + _ids(chat, [target])[0]
        if max_length is not None and len(ids) > max_length:
            raise InputError(
                f"row {example.id} has {len(ids)} tokens, the limit is {max_length}",
                way_out="raise unlearn.max_length, or give the text as document records",
            )
        rows.append(TokenRow(example.id, tuple(ids), len(begin)))
    return rows


def closing_tokens(chat: ChatFormat, row: TokenRow) -> int:
    """Count the end-of-turn tokens at the end of the row, which are not part of the answer text."""
    end = tuple(_ids(chat, [chat.end])[0])
    return len(end) if end and row.ids[-len(end) :] == end else 0


def _prompt(chat: ChatFormat, example: Example) -> str:
    prompt = chat.answer_prompt(example.prompt, example.form)
    return prompt + chat.target(example.given, example.form, closed=False) if example.given else prompt


def _target(chat: ChatFormat, example: Example) -> str:
    # After a given prefix the target follows as plain text, without the separator of the chat template.
    return chat.target(example.target, "text" if example.given else example.form, closed=example.closed)


def _ids(chat: ChatFormat, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize all texts in one call, because fast tokenizers then use several threads."""
    return chat.tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
