"""Encode texts as token rows. The ONLY place that decides which tokens are answer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relearn.core.errors import InputError
from relearn.data import Form, Record
from relearn.engine.forward import TokenRow
from relearn.models.chat import ChatFormat


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the target to learn. `closed` ends the target with the end of turn.

    `given` is a prefix of the answer that is not learned.
    """

    id: str
    prompt: str
    target: str
    form: Form = "chat"
    closed: bool = True
    given: str = ""


def record_example(record: Record) -> Example:
    """Make an example of a record. A passage of a document continues after its chunk, so it is not closed."""
    return Example(record.id, record.question, record.answer, record.form, closed=record.form == "chat")


def encode(chat: ChatFormat, examples: Sequence[Example], *, max_length: int | None = None) -> list[TokenRow]:
    """Encode one row per example, in order. Raises InputError for a row over `max_length` tokens; never truncates."""
    prompt_texts = [_prompt(chat, example) for example in examples]
    targets = [_target(chat, example) for example in examples]
    prompts = list(dict.fromkeys(prompt_texts))
    prompt_ids = dict(zip(prompts, _ids(chat, prompts), strict=True))
    joint_ids = _ids(chat, [prompt + target for prompt, target in zip(prompt_texts, targets, strict=True)])
    rows = []
    for example, prompt, target, joint in zip(examples, prompt_texts, targets, joint_ids, strict=True):
        begin = prompt_ids[prompt]
        # Tokens may merge across the border; generation gets the prompt alone, so the prompt's own tokens are kept.
        ids = joint if joint[: len(begin)] == begin else begin + _ids(chat, [target])[0]
        if max_length is not None and len(ids) > max_length:
            raise InputError(
                f"row {example.id} has {len(ids)} tokens, the limit is {max_length}",
                way_out="raise unlearn.max_length, or give the text as document records",
            )
        rows.append(TokenRow(example.id, tuple(ids), len(begin)))
    return rows


def closing_tokens(chat: ChatFormat, row: TokenRow) -> int:
    """Count the last tokens of the row that end the turn and are not part of the answer."""
    end = tuple(_ids(chat, [chat.end])[0])
    return len(end) if end and row.ids[-len(end) :] == end else 0


def _prompt(chat: ChatFormat, example: Example) -> str:
    prompt = chat.prompt(example.prompt, example.form)
    return prompt + chat.target(example.given, example.form, closed=False) if example.given else prompt


def _target(chat: ChatFormat, example: Example) -> str:
    # After a prefix the target is separated as words are, whatever the template.
    return chat.target(example.target, "text" if example.given else example.form, closed=example.closed)


def _ids(chat: ChatFormat, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize all texts in one call, for which fast tokenizers use several threads."""
    return chat.tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
