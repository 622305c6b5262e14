"""Grades from 1 to 5 that a language model gives for fluency, relevance and forgetting, behind any generator.

One prompt asks for one grade of one answer. A reply counts only when its last line is the grade in the form asked for;
any other, and a call that fails, is a failure of that item. The rubrics are prompts/{fluency,relevance,forgetting}.txt;
their version stands in the prompt, and so in the key of the answer cache. An empty answer is not sent: by the rubrics
it is 1, 1 and 5.

Is a language model fit to grade answers? Ten graded by hand say so: data/judge_cases.json, of invented people.

Each aspect has to be read, near the hand's grade, and in its order: a judge that always says 4 is often near and never
in order. The cases are few, so this finds judges that are unfit, and does not rank good ones.
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
# An answer longer than this is cut for the judge, at its end: room in its context is not endless.
LONGEST = 8000
_EMPTY: dict[Aspect, int] = {"fluency": 1, "relevance": 1, "forgetting": 5}
_BOLD = r"(?:\*\*)?"
_GRADE = re.compile(rf"{_BOLD}score{_BOLD}\s*:\s*{_BOLD}\s*([1-5])(?:\s*/\s*5)?{_BOLD}\.?{_BOLD}", re.IGNORECASE)


@dataclass(frozen=True)
class Graded:
    """`grade` from 1 to 5, or None and in `failure` why there is none."""

    grade: int | None
    failure: str = ""


def grade(rows: Sequence[AnswerRow], aspect: Aspect, completer: Completer) -> list[Graded]:
    """The grade of every row, in order. Whatever goes wrong with the judge is a failure of an item, never an error."""
    sent = [row for row in rows if row.response.strip()]
    replies = iter(_replies(completer, [grade_prompt(row, aspect) for row in sent]))
    return [read_grade(next(replies)) if row.response.strip() else Graded(_EMPTY[aspect]) for row in rows]


def grade_prompt(row: AnswerRow, aspect: Aspect) -> Prompt:
    """What the judge reads. For `forgetting` it holds the private answer."""
    fields = {"question": row.question, "response": row.response[:LONGEST]}
    if aspect == "forgetting":
        fields["reference"] = row.reference
    text = Template(_rubric(aspect)).substitute(version=RUBRIC, **fields).strip()
    return Prompt(text, "grade", {"aspect": aspect, **fields}, max_tokens=MAX_TOKENS)


@lru_cache
def _rubric(aspect: Aspect) -> str:
    return resources.files("relearn.metrics").joinpath(f"prompts/{aspect}.txt").read_text(encoding="utf-8")


def read_grade(reply: Completion) -> Graded:
    """The grade on the last line. A reply that gives two different grades is not understood."""
    if not reply.ok:
        return Graded(None, "failed")
    lines = [line.strip() for line in reply.text.splitlines() if line.strip()]
    found = [match and int(match[1]) for match in map(_GRADE.fullmatch, lines)]
    if not lines or found[-1] is None or len({value for value in found if value}) > 1:
        return Graded(None, "not understood")
    return Graded(found[-1])


def _replies(completer: Completer, prompts: Sequence[Prompt]) -> list[Completion]:
    """A judge that stops answering is asked again as long as each time brings something; what is still missing then has
    failed.
    """
    had = -1
    while True:
        try:
            return completer.complete(prompts)
        except (GeneratorError, BudgetError) as error:
            failed = Completion(error=str(error))
            if not isinstance(completer, CachedCompleter):
                return [failed for _ in prompts]
            kept = completer.stored(prompts)
            arrived = sum(reply is not None for reply in kept)
            if arrived <= had or isinstance(error, BudgetError):
                return [reply or failed for reply in kept]
            had = arrived


class NamedGrader:
    """The judge that `metrics.judge` names, made when it is first asked: a model is loaded only if it is needed."""

    def __init__(self, settings: config.Metrics, cache: Path | None = None):
        """Raises InputError for a judge that cannot be, and for one on another host unless that is allowed."""
        check_remote_judge(settings)
        self.name = str(settings.judge)
        self._cache = cache

    @cached_property
    def completer(self) -> CachedCompleter:
        return make_completer(self.name, config.Synthesis(generator=self.name), self._cache)

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        return _replies(self.completer, prompts)


def check_remote_judge(settings: config.Metrics) -> None:
    """Raises InputError when questions, references and answers would leave this machine without `allow_remote`, and for
    a judge that cannot be.
    """
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
    return Agreement(len(by_hand), len(pairs), _share(off, 0), _share(off, 1), sum(off) / len(off), _spearman(pairs))


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
