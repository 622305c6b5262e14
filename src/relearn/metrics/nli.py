"""The interface of entailment judges (natural language inference): pairs of texts in, verdicts out.

`entailment.py` loads the judges; `Context.verdicts` has the direction in which answers are judged.
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
    """label: the likeliest; probabilities: of all three, summing to 1. Both are None where the judge failed."""

    label: Label | None
    probabilities: Mapping[Label, float] | None = None


class EntailmentJudge(Protocol):
    """Judges (premise, hypothesis) pairs. `truncated` counts the pairs that were cut to the model's length."""

    name: str
    truncated: int

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[NLIVerdict]: ...


class PairJudge(ABC):
    """Base of judges that work in batches of pairs of similar length; a call returns the probabilities alone."""

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
    """Turn three probabilities in the order of LABELS into a verdict; a failed one where they are no probabilities."""
    named = dict(zip(LABELS, probabilities, strict=True))
    if not all(0 <= value <= 1 for value in probabilities):
        return NLIVerdict(None)
    return NLIVerdict(max(named, key=lambda label: named[label]), named)
