"""The rows that unlearning trains on, as they stand in synthesis.jsonl and rejected.jsonl."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from relearn.data import Form, content_id

Variant = Literal["original", "simple", "contextual", "noise", "logical", "generic"]
VARIANTS: tuple[Variant, ...] = ("simple", "contextual", "noise", "logical")


@dataclass(frozen=True, slots=True)
class Question:
    """A question to be answered vaguely: the record's own (`original`) or one of its variants."""

    record_id: str
    variant: Variant
    text: str

    @property
    def id(self) -> str:
        return content_id(self.record_id, self.variant, self.text)


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One prompt with its target. `kind`: "qa", "completion" (prefix -> rest of a vague answer) or "generic".

    `question_id` ties the row to the question its answer was written for; generic rows have none. `given` is a
    beginning of the answer that stands before the target and is not learned.
    """

    id: str
    kind: Literal["qa", "completion", "generic"]
    prompt: str
    target: str
    form: Form
    record_id: str | None = None
    question_id: str | None = None
    variant: Variant = "original"
    given: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A written text that was not taken, with the reason; `attempt` counts from 0, `final` when no attempt was left."""

    record_id: str
    question_id: str
    variant: Variant
    prompt: str
    target: str
    attempt: int
    reason: str
    kind: str
    final: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
