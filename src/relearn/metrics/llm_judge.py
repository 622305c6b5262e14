"""Grade answers from 1 to 5 for fluency, relevance and forgetting with a language model, and check such a judge.

One prompt asks for one grade of one answer. The last line of a reply must be the grade in the requested form; any other
reply and a failed call are failures of the item. The rubrics are prompts/{fluency,relevance,forgetting}.txt; their
version is part of the prompt, and so of the cache key. An empty answer is not sent: its grades are 1, 1 and 5.

`judge_check` compares a judge with hand grades of ten answers about invented people (data/judge_cases.json). Each
aspect needs enough readable replies, grades near the hand grades, and a rank correlation with them (a judge that always
replies 4 is often near, but has no correlation). Ten cases find bad judges; they do not rank good ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from string import Template
from typing import Literal

import numpy as np

from relearn.core import config
from relearn.core.errors import BudgetError, GeneratorError, InputError
from relearn.llm import Completer, Completion, Prompt
from relearn.llm.cache import CachedCompleter
from relearn.llm.generators import make_completer, remote_host
from relearn.metrics.answer_row import AnswerRow

Aspect = Literal["fluency", "relevance", "forgetting"]
ASPECTS: tuple[Aspect, ...] = ("fluency", "relevance", "forgetting")
RUBRIC = "1"
MAX_TOKENS = 160
# Most characters of an answer in the prompt, so that the prompt fits into the judge's context.
MAX_RESPONSE = 8000
_EMPTY: dict[Aspect, int] = {"fluency": 1, "relevance": 1, "forgetting": 5}
_BOLD = r"(?:\*\*)?"
_GRADE = re.compile(rf"{_BOLD}score{_BOLD}\s*:\s*{_BOLD}\s*([1-5])(?:\s*/\s*5)?{_BOLD}\.?{_BOLD}", re.IGNORECASE)


@dataclass(frozen=True)
class Graded:
    """Hold a grade from 1 to 5, or None with the reason in `failure` ("failed", "not understood")."""

    grade: int | None
    failure: str = ""


def grade(rows: Sequence[AnswerRow], aspect: Aspect, completer: Completer) -> list[Graded]:
    """Grade every row in one aspect, in order; an error of the judge is a failure of the item, not an exception."""
    sent = [row for row in rows if row.response.strip()]
    replies = iter(_replies(completer, [grade_prompt(row, aspect) for row in sent]))
    return [read_grade(next(replies)) if row.response.strip() else Graded(_EMPTY[aspect]) for row in rows]


def grade_prompt(row: AnswerRow, aspect: Aspect) -> Prompt:
    """Build the judge's prompt; for `forgetting` it contains the private reference answer."""
    fields = {"question": row.question, "response": row.response[:MAX_RESPONSE]}
    if aspect == "forgetting":
        fields["reference"] = row.reference
    text = Template(_rubric(aspect)).substitute(version=RUBRIC, **fields).strip()
    return Prompt(text, "grade", {"aspect": aspect, **fields}, max_tokens=MAX_TOKENS)


@lru_cache
def _rubric(aspect: Aspect) -> str:
    return resources.files("relearn.metrics").joinpath(f"prompts/{aspect}.txt").read_text(encoding="utf-8")


def read_grade(reply: Completion) -> Graded:
    """Parse the grade on the last line; a reply with two different grades is not understood."""
    if not reply.ok:
        return Graded(None, "failed")
    lines = [line.strip() for line in reply.text.splitlines() if line.strip()]
    grades = [match and int(match[1]) for match in map(_GRADE.fullmatch, lines)]
    if not lines or grades[-1] is None or len({value for value in grades if value}) > 1:
        return Graded(None, "not understood")
    return Graded(grades[-1])


def _replies(completer: Completer, prompts: Sequence[Prompt]) -> list[Completion]:
    """Complete the prompts; after an error try again as long as each call adds replies to the cache.

    Prompts without a reply get a failed completion.
    """
    previous = -1
    while True:
        try:
            return completer.complete(prompts)
        except (GeneratorError, BudgetError) as error:
            failed = Completion(error=str(error))
            if not isinstance(completer, CachedCompleter):
                return [failed for _ in prompts]
            cached = completer.stored(prompts)
            arrived = sum(reply is not None for reply in cached)
            if arrived <= previous or isinstance(error, BudgetError):
                return [reply or failed for reply in cached]
            previous = arrived


class NamedGrader:
    """Complete prompts with the judge of `metrics.judge`; its model is loaded on the first call."""

    def __init__(self, settings: config.Metrics, cache: Path | None = None):
        """Raise InputError for an invalid judge, or for a judge on another host without `allow_remote`."""
        check_remote_judge(settings)
        self.name = str(settings.judge)
        self._settings = config.Synthesis(generator=self.name, allow_remote=settings.allow_remote)
        self._cache = cache

    @cached_property
    def completer(self) -> CachedCompleter:
        return make_completer(self.name, self._settings, self._cache)

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        return _replies(self.completer, prompts)


def check_remote_judge(settings: config.Metrics) -> None:
    """Raise InputError for an invalid judge, or for a judge on another host without `allow_remote`."""
    if not settings.judge:
        return
    if settings.judge.partition(":")[0] == "templates":
        raise InputError(
            "templates cannot grade answers", where="metrics.judge", way_out="openai:MODEL or transformers:MODEL"
        )
    host = remote_host(settings.judge)
    if host is not None and not settings.allow_remote:
        raise InputError(
            f"questions, private answers and responses would be sent to {host}",
            where="metrics.judge",
            way_out="allow it (metrics.allow_remote: true), or use transformers:MODEL or an endpoint on this machine",
        )


# Minimum per aspect: share of readable replies, share of grades at most one off, rank correlation.
MIN_READ, MIN_NEAR, MIN_ORDER = 0.9, 0.8, 0.6


@dataclass(frozen=True)
class Agreement:
    """Hold the agreement of a judge with the hand grades in one aspect.

    read: number of readable replies, of `asked`. exact, near: their shares with the same grade, and with a grade at
    most one off. off: mean distance. order: Spearman's rank correlation, None for fewer than three or constant grades.
    """

    asked: int
    read: int
    exact: float | None
    near: float | None
    off: float | None
    order: float | None

    @property
    def usable(self) -> bool:
        enough = self.read >= MIN_READ * self.asked
        return enough and (self.near or 0.0) >= MIN_NEAR and (self.order or 0.0) >= MIN_ORDER


@dataclass(frozen=True)
class JudgeCheck:
    """Hold the agreement of a judge with the hand grades, by aspect."""

    judge: str
    agreement: dict[Aspect, Agreement]

    @property
    def usable(self) -> bool:
        return all(agreement.usable for agreement in self.agreement.values())

    def lines(self) -> list[str]:
        """Describe the result: one line for each aspect and one for the conclusion."""
        lines = [_line(aspect, self.agreement[aspect]) for aspect in ASPECTS]
        verdict = "usable" if self.usable else "not usable"
        needed = f"each aspect needs {MIN_READ:.0%} read, {MIN_NEAR:.0%} at most one off, rank correlation {MIN_ORDER}"
        return [*lines, f"{self.judge}: {verdict} as a judge, rubric {RUBRIC} ({needed})"]


def judge_check(completer: Completer) -> JudgeCheck:
    """Compare a judge with the hand grades of ten answers in all three aspects: 30 prompts without private data."""
    cases = judge_cases()
    rows = [AnswerRow(str(at), case["question"], case["reference"], case["response"]) for at, case in enumerate(cases)]
    agreements: dict[Aspect, Agreement] = {
        aspect: agreement([case[aspect] for case in cases], [item.grade for item in grade(rows, aspect, completer)])
        for aspect in ASPECTS
    }
    return JudgeCheck(completer.name, agreements)


@lru_cache
def judge_cases() -> tuple[dict, ...]:
    """Load the hand-graded cases: question, reference, response, three grades, and the reasons."""
    text = resources.files("relearn.metrics").joinpath("data/judge_cases.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))


def agreement(by_hand: Sequence[int], by_judge: Sequence[int | None]) -> Agreement:
    """Compare the judge's grades (None: not readable) with the hand grades."""
    pairs = [(hand, judge) for hand, judge in zip(by_hand, by_judge, strict=True) if judge is not None]
    if not pairs:
        return Agreement(len(by_hand), 0, None, None, None, None)
    distances = [abs(hand - judge) for hand, judge in pairs]
    exact, near = (sum(distance <= most for distance in distances) / len(pairs) for most in (0, 1))
    return Agreement(len(by_hand), len(pairs), exact, near, sum(distances) / len(pairs), _spearman(pairs))


def _spearman(pairs: Sequence[tuple[int, int]]) -> float | None:
    from scipy.stats import rankdata

    hand, judge = zip(*pairs, strict=True)
    if len(pairs) < 3 or len(set(hand)) == 1 or len(set(judge)) == 1:
        return None
    return float(np.corrcoef(rankdata(hand), rankdata(judge))[0, 1])


def _line(aspect: Aspect, result: Agreement) -> str:
    if not result.read:
        return f"{aspect}: 0 of {result.asked} replies could be read"
    order = "none" if result.order is None else f"{result.order:.2f}"
    return (
        f"{aspect}: {result.read} of {result.asked} read, {result.exact:.0%} exact, {result.near:.0%} at most one off, "
        f"{result.off:.1f} off on average, rank correlation {order}"
    )
