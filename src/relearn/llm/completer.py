"""Define prompts, completions, the completer protocol, and the budget of calls and tokens.

`strip_reasoning` and `drop_truncated_sentence` clean the output text of a language model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from relearn.core.errors import BudgetError
from relearn.models.chat import split_thoughts


@dataclass(frozen=True, slots=True)
class Prompt:
    """Store one request to a generator.

    A language model gets only `text`. `task` and `fields` contain the same request in structured form, for the offline
    generator `templates` and for tests. `attempt` counts from 0 and is part of the cache key, so that a retry can give
    another completion.
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
    """Store the completion of a prompt and its token counts; after a failure, `error` is set and `text` is empty."""

    text: str = ""
    error: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached: bool = False

    @property
    def ok(self) -> bool:
        return self.error is None


def usable_or_failed(completion: Completion) -> Completion:
    """Return a completion that can be cached and written: one without text, or that is not Unicode, becomes a failure.

    A lone surrogate, half of a character, can be in the JSON of a server, but in no file.
    """
    if not completion.ok:
        return completion
    try:
        completion.text.encode()
    except UnicodeEncodeError:
        return replace(completion, text="", error="the answer is not valid Unicode")
    return completion if completion.text.strip() else replace(completion, text="", error="an empty answer")


@runtime_checkable
class Completer(Protocol):
    """Define a completer: one completion per prompt, in order. `name`: model and endpoint, part of the cache key."""

    name: str

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]: ...


@dataclass
class CallBudget:
    """Limit the calls and tokens of generators, and count those used; None is no limit.

    A call is a prompt that is sent, whether it is answered or not. Further tries after a temporary failure are the same
    call.

    `reserve` counts the largest possible tokens of a prompt before it is sent. `settle` replaces them by the actual
    count. The limits therefore hold for any number of concurrent requests.
    """

    max_calls: int | None = None
    max_tokens: int | None = None
    calls: int = 0
    tokens: int = 0
    _reserved: int = 0

    def reserve(self, prompt: Prompt) -> bool:
        """Reserve a call and the worst-case tokens of `prompt`; return False and reserve nothing if over a limit."""
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
        """Return the error for a prompt that exceeds the budget."""
        used = (("max_calls", self.max_calls, self.calls), ("max_tokens", self.max_tokens, self.tokens))
        limits = [f"{name} {limit:,} ({count:,} used)" for name, limit, count in used if limit is not None]
        problem = f"the budget does not cover the next prompt: {', '.join(limits)}"
        way_out = "every answer received is kept: raise the limit and start again to go on"
        return BudgetError(problem, where="synthesis", way_out=way_out)


def worst_case_tokens(prompt: Prompt) -> int:
    """Compute an upper bound of tokens: characters / 2 (names and numbers), 32 for the chat template, max_tokens."""
    return len(prompt.text) // 2 + 32 + prompt.max_tokens


_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)|\n")
_BARE_LABEL = re.compile(r"(?:^|\n)[^\S\n]*\(?\d{1,3}[.):]\Z")


def strip_reasoning(text: str) -> str:
    """Remove the thoughts that reasoning models write before an answer."""
    return split_thoughts(text)[0].strip()


def drop_truncated_sentence(text: str) -> str:
    """Cut a text that reached the token limit after its last complete sentence or line; return "" if it has none."""
    ends = [match.end() for match in _END.finditer(text) if match.end() < len(text)]
    return _BARE_LABEL.sub("", text[: ends[-1]].strip()).strip() if ends else ""


def estimated_tokens(text: str) -> int:
    """Estimate the tokens of a text as characters / 4, rounded up; used without endpoint counts or a tokenizer."""
    return (len(text) + 3) // 4
