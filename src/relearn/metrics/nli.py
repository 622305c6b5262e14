"""What a judge of entailment says of pairs of texts, and the direction in which answers are judged.

For the forget set the answer is the premise and the reference the hypothesis (does the answer still say it?), for the
retain set the other way round (arXiv 2502.11190). `entailment.py` has the judges.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.metric import Split

Label = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Verdict:
    """`label`: the likeliest; `probabilities`: of all three, summing to 1. Both None: the judge failed on the item."""

    label: Label | None
    probabilities: Mapping[Label, float] | None = None


class EntailmentJudge(Protocol):
    """(premise, hypothesis) pairs in, one verdict each out. `truncated` counts the pairs cut to the model's length."""

    name: str
    truncated: int

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]: ...


class PairJudge(ABC):
    """A judge that works in batches of pairs of like length. Called, it gives the probabilities alone."""

    def __init__(self, name: str, batch_size: int):
        self.name = name
        self.truncated = 0
        self._batch_size = batch_size

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[dict[Label, float] | None]:
        """{"entailment": p, "neutral": p, "contradiction": p} for each pair; None where the judge failed."""
        found = (verdict.probabilities for verdict in self.judge(pairs))
        return [None if probabilities is None else dict(probabilities) for probabilities in found]

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        order = sorted(range(len(pairs)), key=lambda index: sum(map(len, pairs[index])))
        found: dict[int, Verdict] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            found.update(zip(batch, self._judge([pairs[index] for index in batch]), strict=True))
        return [found[index] for index in range(len(pairs))]

    @abstractmethod
    def _judge(self, pairs: list[tuple[str, str]]) -> list[Verdict]:
        """The verdicts on one batch."""


def verdict_of(probabilities: Sequence[float]) -> Verdict:
    """The verdict of three probabilities in the order of LABELS; a failed one where they are none."""
    named = dict(zip(LABELS, probabilities, strict=True))
    if not all(0 <= value <= 1 for value in probabilities):
        return Verdict(None)
    return Verdict(max(named, key=lambda label: named[label]), named)


def verdicts(rows: Sequence[AnswerRow], split: Split, judge: EntailmentJudge | None) -> list[Verdict | None]:
    """One for each row; None without a judge, and for an empty answer, of which there is nothing to judge."""
    if judge is None:
        return [None] * len(rows)
    asked = [index for index, row in enumerate(rows) if row.response.strip()]
    pairs = [(rows[index].response, rows[index].reference) for index in asked]
    if split == "retain":
        pairs = [(reference, response) for response, reference in pairs]
    given = dict(zip(asked, judge.judge(pairs), strict=True))
    return [given.get(index) for index in range(len(rows))]
