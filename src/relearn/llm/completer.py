"""Define prompts, completions, the protocol of a generator, and the budget of calls and tokens.

`strip_reasoning` and `drop_truncated_sentence` clean the text a language model wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from relearn.core.errors import BudgetError


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to a generator.

    `text` is all that a language model reads. `task` and `fields` are the same request in structured form, for the
    offline `templates` generator and for tests; they are not sent. `attempt` counts from 0 and is part of the cache
    key, so that a repeated attempt can bring another answer.
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
    """The answer to a prompt, with its tokens; `error` is set and `text` empty where the generator failed."""

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
    """Answers prompts: one completion each, in order. `name` identifies model and endpoint in the cache key."""

    name: str

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]: ...


@dataclass
class CallBudget:
    """Limits on calls and tokens, and what is used of them; None is no limit. Every prompt sent is a call.

    `reserve` counts the worst case of a prompt before it is sent, `settle` replaces it by the true count, so that the
    limits hold with any number of prompts in flight.
    """

    max_calls: int | None = None
    max_tokens: int | None = None
    calls: int = 0
    tokens: int = 0
    _reserved: int = 0

    def reserve(self, prompt: Prompt) -> bool:
        """Reserve a call and the worst-case tokens of `prompt`; return False, with nothing changed, if over a limit."""
        worst = worst_case_tokens(prompt)
        if self.max_calls is not None and self.calls >= self.max_calls:
            return False
        if self.max_tokens is not None and self.tokens + self._reserved + worst > self.max_tokens:
            return False
        self.calls += 1
        self._reserved += worst
        return True

    def settle(self, prompt: Prompt, completion: Completion) -> None:
        """Replace the reserved tokens of `prompt` by those of its completion."""
        self._reserved -= worst_case_tokens(prompt)
        self.tokens += completion.input_tokens + completion.output_tokens

    def error(self) -> BudgetError:
        """Return the error for a prompt that the budget does not cover."""
        used = (("max_calls", self.max_calls, self.calls), ("max_tokens", self.max_tokens, self.tokens))
        limits = [f"{name} {limit:,} ({count:,} used)" for name, limit, count in used if limit is not None]
        problem = f"the budget does not cover the next prompt: {', '.join(limits)}"
        way_out = "every answer received is kept: raise the limit and start again to go on"
        return BudgetError(problem, where="synthesis", way_out=way_out)


def worst_case_tokens(prompt: Prompt) -> int:
    """Estimate tokens from above: 2 characters a token (names and numbers), 32 for the chat template, max_tokens."""
    return len(prompt.text) // 2 + 32 + prompt.max_tokens


_REASONING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)|\n")
_BARE_LABEL = re.compile(r"(?:^|\n)[^\S\n]*\(?\d{1,3}[.):]\Z")


def strip_reasoning(text: str) -> str:
    """Remove the <think> blocks of reasoning models."""
    return _REASONING.sub("", text).strip()


def drop_truncated_sentence(text: str) -> str:
    """Cut a text that reached the token limit after its last complete sentence or line; "" when there is none."""
    ends = [match.end() for match in _END.finditer(text) if match.end() < len(text)]
    return _BARE_LABEL.sub("", text[: ends[-1]].strip()).strip() if ends else ""


def estimated_tokens(text: str) -> int:
    """Estimate the tokens of a text as characters / 4, rounded up, where neither endpoint nor tokenizer counts them."""
    return (len(text) + 3) // 4
