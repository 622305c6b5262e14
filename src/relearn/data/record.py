"""One piece of knowledge: a question with its answer, or a passage of text."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

Split = Literal["forget", "retain", "holdout", "generic"]
Form = Literal["chat", "text"]


@dataclass(frozen=True, slots=True)
class Record:
    """A question and its answer (`form` "chat"), or a prefix of a text and how it goes on (`form` "text").

    `id` is a stable hash of question and answer unless the data brings its own. `paraphrases` are other wordings of the
    question, `alternatives` perturbed or alternate answers, `subject` the person or thing the record is about.
    `choices` are the answers a multiple-choice question offers, `choice` the place of the right one; `tags` say what
    kind of probe the record is (its level, its attacks), and scores are broken down by them.
    """

    question: str
    answer: str
    id: str = ""
    subject: str | None = None
    split: Split = "forget"
    form: Form = "chat"
    choices: tuple[str, ...] = ()
    choice: int | None = None
    tags: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    paraphrased_answer: str | None = None
    alternatives: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self.question, self.answer))


def content_id(*parts: str) -> str:
    """Sixteen hex digits that depend on the texts and on nothing else."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]
