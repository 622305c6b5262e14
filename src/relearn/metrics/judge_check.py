"""Is a language model fit to grade answers? Ten graded by hand say so: data/judge_cases.json, of invented people.

Each aspect has to be read, near the hand's grade, and in its order: a judge that always says 4 is often near and never
in order. The cases are few, so this finds judges that are unfit, and does not rank good ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np

from relearn.llm import Completer
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.llm_judge import ASPECTS, RUBRIC, Aspect, grade

# Shares and rank correlation that each aspect needs at least.
READ, NEAR, ORDER = 0.9, 0.8, 0.6


@dataclass(frozen=True)
class Agreement:
    """Of one aspect: `read` grades of `asked`, shares `exact` and `near` (at most one off) of those read, `off`: mean
    distance, `order`: Spearman's correlation. None where too few were read, or where all grades are the same.
    """

    asked: int
    read: int
    exact: float | None
    near: float | None
    off: float | None
    order: float | None

    @property
    def usable(self) -> bool:
        enough = self.read >= READ * self.asked
        return enough and (self.near or 0.0) >= NEAR and (self.order or 0.0) >= ORDER


@dataclass(frozen=True)
class JudgeCheck:
    """What a judge is worth on the hand-graded answers, by aspect."""

    judge: str
    agreement: dict[Aspect, Agreement]

    @property
    def usable(self) -> bool:
        return all(found.usable for found in self.agreement.values())

    def lines(self) -> list[str]:
        """In plain words, one line for each aspect and one for the verdict."""
        found = [_line(aspect, self.agreement[aspect]) for aspect in ASPECTS]
        verdict = "usable" if self.usable else "not usable"
        needed = f"each aspect needs {READ:.0%} read, {NEAR:.0%} at most one off, rank correlation {ORDER}"
        return [*found, f"{self.judge}: {verdict} as a judge, rubric {RUBRIC} ({needed})"]


def judge_check(completer: Completer) -> JudgeCheck:
    """Let a judge grade the ten answers in all three aspects: 30 prompts, nothing private in them."""
    cases = judge_cases()
    rows = [AnswerRow(str(at), case["question"], case["reference"], case["response"]) for at, case in enumerate(cases)]
    found = {}
    for aspect in ASPECTS:
        given = [item.grade for item in grade(rows, aspect, completer)]
        found[aspect] = agreement([case[aspect] for case in cases], given)
    return JudgeCheck(completer.name, found)


@lru_cache
def judge_cases() -> tuple[dict, ...]:
    """question, reference, response, the three grades by hand, and why."""
    text = resources.files("relearn.metrics").joinpath("data/judge_cases.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))


def agreement(by_hand: Sequence[int], given: Sequence[int | None]) -> Agreement:
    pairs = [(own, other) for own, other in zip(by_hand, given, strict=True) if other is not None]
    if not pairs:
        return Agreement(len(by_hand), 0, None, None, None, None)
    off = [abs(own - other) for own, other in pairs]
    return Agreement(
        len(by_hand), len(pairs), _share(off, 0), _share(off, 1), sum(off) / len(off), _spearman(pairs)
    )  # fmt: skip


def _share(distances: Sequence[int], most: int) -> float:
    return sum(distance <= most for distance in distances) / len(distances)


def _spearman(pairs: Sequence[tuple[int, int]]) -> float | None:
    from scipy.stats import rankdata

    own, other = zip(*pairs, strict=True)
    if len(pairs) < 3 or len(set(own)) == 1 or len(set(other)) == 1:
        return None
    return float(np.corrcoef(rankdata(own), rankdata(other))[0, 1])


def _line(aspect: Aspect, found: Agreement) -> str:
    if not found.read:
        return f"{aspect}: 0 of {found.asked} replies could be read"
    order = "none" if found.order is None else f"{found.order:.2f}"
    return (
        f"{aspect}: {found.read} of {found.asked} read, {found.exact:.0%} exact, {found.near:.0%} at most one off, "
        f"{found.off:.1f} off on average, rank correlation {order}"
    )
