"""The one-method protocol behind which every generator stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


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
