"""The rows that unlearning trains on, as they stand in synthesis.jsonl and rejected.jsonl.

Stage 4b, diversification: everyday rows mixed in, augmented : generic = 1 : 1 in the paper (arXiv 2502.11190).

The generic rows that come with the project: everyday questions that keep a model talking about the world.

Stage 4a, diversification: a vague answer cut in two, so that forgetting does not hold in question form only
(arXiv 2502.11190, section 3; the paper and its code prompt with the first 25 % of the words).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Literal

from relearn.data import Form, Record, content_id

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


def choose_generic(generic: Sequence[Record], augmented: int, ratio: float, seed: int) -> list[TrainingRow]:
    """`augmented * ratio` of the generic records, drawn without replacement; all of them when there are fewer."""
    wanted = generic_wanted(augmented, ratio)
    chosen = random.Random(f"generic {seed}").sample(list(generic), min(wanted, len(generic)))
    return [
        TrainingRow(
            content_id("generic", record.id), "generic", record.question, record.answer, record.form, variant="generic"
        )
        for record in chosen
    ]


def generic_wanted(augmented: int, ratio: float) -> int:
    return round(augmented * ratio)


def load_generic() -> list[Record]:
    """All built-in generic rows, in file order; none is about a person of the demo."""
    text = resources.files("relearn.synthesis").joinpath("data", "generic.jsonl").read_text(encoding="utf-8")
    rows = (json.loads(line) for line in text.splitlines() if line)
    return [Record(row["question"], row["answer"], split="generic", source="relearn/generic") for row in rows]


MIN_WORDS = 4


def split_answer(text: str, share: float) -> tuple[str, str] | None:
    """(prefix, rest) with `share` of the words in the prefix and at least one on each side; the spaces at the cut are
    in neither. None for an answer of fewer than MIN_WORDS words.
    """
    words = list(re.finditer(r"\S+", text))
    if len(words) < MIN_WORDS:
        return None
    cut = min(max(1, round(len(words) * share)), len(words) - 1)
    return text[words[0].start() : words[cut - 1].end()], text[words[cut].start() : words[-1].end()]
