"""Answers on disk: one row per question asked, in before/ and after/ of a run folder or in a file of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class AnswerRow:
    """A question, the reference answer, and what a model said.

    `reference_logprobs`: (reference tokens,) natural log-probability of every reference token under the model asked.
    `response_logprobs`: (response tokens,) the same for the response, under the base model (`metrics.base_model`); PPL
    rests on them. None means not measured; an empty tuple means a text without tokens.
    """

    id: str
    question: str
    reference: str
    response: str
    subject: str | None = None
    reference_logprobs: tuple[float, ...] | None = None
    response_logprobs: tuple[float, ...] | None = None

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> AnswerRow:
        known = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        for name in ("reference_logprobs", "response_logprobs"):
            if known.get(name) is not None:
                known[name] = tuple(known[name])
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
