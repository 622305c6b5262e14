"""The one-method protocol behind which every generator stands.

A cap on calls and tokens that holds however many prompts are under way at once.

What of a written text is whole, without thoughts aloud and without the piece the token limit cut; and its length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from relearn.core.errors import BudgetError


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a generator is asked.

    `text` is all that a language model reads. `task` and `fields` say the same in structure, for the offline
    `templates` generator and for tests; they are never sent anywhere. `attempt` counts from 0: a repeated attempt is a
    different prompt to the cache, so that asking again can bring another answer.
    """

    text: str
    task: str
    fields: Mapping[str, str] = field(default_factory=dict)
    max_tokens: int = 256
    temperature: float = 0.0
    attempt: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back. A failure is a value: `error` is set and `text` is empty, never the other way round."""

    text: str = ""
    error: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached: bool = False

    @property
    def ok(self) -> bool:
        return self.error is None


@runtime_checkable
class Completer(Protocol):
    """Answers prompts in order, one completion for each. `name` identifies model and endpoint in the cache key."""

    name: str

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]: ...


@dataclass
class Budget:
    """What may be spent in all and what is; None is no limit. A call is a prompt sent, whatever became of it.

    Before a prompt is sent its worst case is set aside, when its answer is there the true count takes its place; so the
    cap is not passed even with many prompts in flight.
    """

    max_calls: int | None = None
    max_tokens: int | None = None
    calls: int = 0
    tokens: int = 0
    _set_aside: int = 0

    def take(self, prompt: Prompt) -> bool:
        """Set aside what `prompt` can cost; False, with nothing changed, when that is no longer there."""
        worst = worst_case_tokens(prompt)
        if self.max_calls is not None and self.calls >= self.max_calls:
            return False
        if self.max_tokens is not None and self.tokens + self._set_aside + worst > self.max_tokens:
            return False
        self.calls += 1
        self._set_aside += worst
        return True

    def settle(self, prompt: Prompt, completion: Completion) -> None:
        self._set_aside -= worst_case_tokens(prompt)
        self.tokens += completion.input_tokens + completion.output_tokens

    def exhausted(self) -> BudgetError:
        limits = [
            f"{name} {limit:,} ({spent:,} used)"
            for name, limit, spent in (
                ("max_calls", self.max_calls, self.calls),
                ("max_tokens", self.max_tokens, self.tokens),
            )
            if limit is not None
        ]
        return BudgetError(
            f"the budget does not cover the next prompt: {', '.join(limits)}",
            where="synthesis",
            way_out="every answer received is kept: raise the limit and start again to go on",
        )


def worst_case_tokens(prompt: Prompt) -> int:
    """Two characters a token (names and numbers are dear), the chat template, and the longest answer allowed."""
    return len(prompt.text) // 2 + 32 + prompt.max_tokens


_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)|\n")
_BARE_LABEL = re.compile(r"(?:^|\n)[^\S\n]*\(?\d{1,3}[.):]\Z")


def without_thoughts(text: str) -> str:
    """`text` without the <think> blocks of reasoning models."""
    return _THOUGHT.sub("", text).strip()


def whole_part(text: str) -> str:
    """`text`, cut by the token limit, up to its last whole sentence or line; "" when there is none."""
    ends = [match.end() for match in _END.finditer(text) if match.end() < len(text)]
    return _BARE_LABEL.sub("", text[: ends[-1]].strip()).strip() if ends else ""


def estimated_tokens(text: str) -> int:
    """Characters / 4, rounded up: for endpoints that do not count, and for plans without a tokenizer."""
    return (len(text) + 3) // 4
