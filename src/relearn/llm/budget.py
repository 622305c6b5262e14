"""A cap on calls and tokens that holds however many prompts are under way at once."""

from __future__ import annotations

from dataclasses import dataclass

from relearn.core.errors import BudgetError
from relearn.llm.completer import Completion, Prompt


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
                ("max_calls", self.max_calls, self.calls), ("max_tokens", self.max_tokens, self.tokens),
            )
            if limit is not None
        ]  # fmt: skip
        return BudgetError(
            f"the budget does not cover the next prompt: {', '.join(limits)}", where="synthesis",
            way_out="every answer received is kept: raise the limit and start again to go on",
        )  # fmt: skip


def worst_case_tokens(prompt: Prompt) -> int:
    """Two characters a token (names and numbers are dear), the chat template, and the longest answer allowed."""
    return len(prompt.text) // 2 + 32 + prompt.max_tokens
