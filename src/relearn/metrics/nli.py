"""Define the interface of entailment judges (natural language inference), which map pairs of texts to verdicts.

`entailment.py` loads the judges; `Context.verdicts` chooses premise and hypothesis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Label = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class NLIVerdict:
    """Hold the likeliest label, and the probabilities of all three (sum 1); both are None if the judge failed."""

    label: Label | None
    probabilities: Mapping[Label, float] | None = None


class EntailmentJudge(Protocol):
    """Judge (premise, hypothesis) pairs; `truncated` counts the pairs that were cut to the model's length."""

    name: str
    truncated: int

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[NLIVerdict]: ...


class PairJudge(ABC):
    """Judge pairs in batches of similar length (base class); a call returns only the probabilities."""

    def __init__(self, name: str, batch_size: int):
        self.name = name
        self.truncated = 0
        self._batch_size = batch_size

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[dict[Label, float] | None]:
        """Return {"entailment": p, "neutral": p, "contradiction": p} for each pair; None where the judge failed."""
        verdicts = self.judge(pairs)
        return [None if verdict.probabilities is None else dict(verdict.probabilities) for verdict in verdicts]

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[NLIVerdict]:
        order = sorted(range(len(pairs)), key=lambda index: sum(map(len, pairs[index])))
        verdicts: dict[int, NLIVerdict] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            verdicts.update(zip(batch, self._judge([pairs[index] for index in batch]), strict=True))
        return [verdicts[index] for index in range(len(pairs))]

    @abstractmethod
    def _judge(self, pairs: list[tuple[str, str]]) -> list[NLIVerdict]:
        """Judge one batch."""


def verdict_of(probabilities: Sequence[float]) -> NLIVerdict:
    """Convert three probabilities in the order of LABELS to a verdict; a failed one if they are not in [0, 1]."""
    named = dict(zip(LABELS, probabilities, strict=True))
    if not all(0 <= value <= 1 for value in probabilities):
        return NLIVerdict(None)
    return NLIVerdict(max(named, key=lambda label: named[label]), named)
