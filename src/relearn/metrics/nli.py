"""Define the interface of entailment judges (natural language inference), and judge answers with them.

A judge maps pairs of texts to verdicts; `entailment.py` loads the judges. `judge_answers` corrects two errors of judges
that were trained on image captions (SNLI). They take two descriptions for a contradiction although both can be true:
where a question asks for nothing in particular, both directions must contradict each other. And they miss one changed
detail in a long text: a detail that was replaced in an otherwise equal text is judged with the few words around it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Literal, Protocol

from relearn.text.normal_forms import TextForms, find_values
from relearn.text.normalize import Token, is_function_word, tokenise, word_list

Label = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class NLIVerdict:
    """Hold the likeliest label, and the probabilities of all three (sum 1); both are None if the judge failed.

    changed_detail: True if the label is "contradiction" because of a replaced detail. unconfirmed: True if the judge
    found a contradiction in one direction only, so that it says nothing ("neutral").
    """

    label: Label | None
    probabilities: Mapping[Label, float] | None = None
    changed_detail: bool = False
    unconfirmed: bool = False


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


# Probability of contradiction in both directions that counts where a question asks for nothing in particular.
OPEN_CONTRADICTION = 0.9
# Mean probability of contradiction, over both directions, from which a replaced detail is another one. Of 40 answers
# with a changed detail all reach .35; rewordings stay below .3 (docs/metrics.md).
DETAIL_CONTRADICTION = 0.3
_MIN_SIMILARITY = 0.75
_LONGEST_DETAIL = 4
_NEIGHBOURS = 6
# Words of which no two are true of one thing, although judges find them similar.
_EXCLUSIVE = tuple(
    frozenset(word_list(words))
    for words in (
        "morning afternoon evening night noon midnight",
        "spring summer autumn fall winter",
        "monday tuesday wednesday thursday friday saturday sunday",
        "north south east west northern southern eastern western",
    )
)


def judge_answers(
    judge: EntailmentJudge, pairs: Sequence[tuple[str, str]], is_open: Sequence[bool]
) -> list[NLIVerdict]:
    """Judge (premise, hypothesis) pairs of a reference and an answer, in either order.

    is_open: for each pair, whether the question asks for nothing in particular.
    """
    verdicts = judge.judge(pairs)
    doubtful = [at for at, verdict in enumerate(verdicts) if is_open[at] and verdict.label == "contradiction"]
    backward = judge.judge([(pairs[at][1], pairs[at][0]) for at in doubtful]) if doubtful else []
    for at, other in zip(doubtful, backward, strict=True):
        if min(_contradiction(verdicts[at]), _contradiction(other)) < OPEN_CONTRADICTION:
            verdicts[at] = NLIVerdict("neutral", unconfirmed=True)
    for at in _changed(judge, pairs):
        verdicts[at] = (
            replace(verdicts[at], label="contradiction", changed_detail=True) if verdicts[at].label else verdicts[at]
        )
    return verdicts


def _contradiction(verdict: NLIVerdict) -> float:
    if verdict.probabilities is None:
        return float(verdict.label == "contradiction")
    return verdict.probabilities["contradiction"]


def _changed(judge: EntailmentJudge, pairs: Sequence[tuple[str, str]]) -> set[int]:
    """Return the indices of the pairs whose texts are equal except for a detail that contradicts the replaced one."""
    changed: set[int] = set()
    to_judge: list[tuple[int, tuple[str, str]]] = []
    for at, (one, other) in enumerate(pairs):
        for first, second, windows in replaced_details(one, other):
            if is_other_detail(first, second):
                changed.add(at)
            else:
                to_judge.append((at, windows))
    if to_judge:
        both = judge.judge([pair for _, windows in to_judge for pair in (windows, (windows[1], windows[0]))])
        for (at, _), forward, backward in zip(to_judge, both[::2], both[1::2], strict=True):
            if _contradiction(forward) + _contradiction(backward) >= 2 * DETAIL_CONTRADICTION:
                changed.add(at)
    return changed


def replaced_details(one: str, other: str) -> Iterator[tuple[str, str, tuple[str, str]]]:
    """Find the details in which two almost equal texts differ.

    Yields the words of both texts, and both with the words around them: (words, other words, (passage, passage)).
    Nothing for texts that are not almost equal, and for additions and omissions.
    """
    tokens, others = tokenise(one), tokenise(other)
    matcher = SequenceMatcher(None, [token.norm for token in tokens], [token.norm for token in others], autojunk=False)
    if matcher.real_quick_ratio() < _MIN_SIMILARITY or matcher.ratio() < _MIN_SIMILARITY:
        return
    for kind, first, last, begin, end in matcher.get_opcodes():
        replaced, new = tokens[first:last], others[begin:end]
        if kind != "replace" or max(len(replaced), len(new)) > _LONGEST_DETAIL:
            continue
        if any(all(is_function_word(token.norm) for token in side) for side in (replaced, new)):
            continue
        around = tokens[max(0, first - _NEIGHBOURS)], tokens[min(len(tokens), last + _NEIGHBOURS) - 1]
        words, other_words = _text(one, replaced), _text(other, new)
        before, after = one[around[0].start : replaced[0].start], one[replaced[-1].end : around[1].end]
        yield words, other_words, (f"{before}{words}{after}", f"{before}{other_words}{after}")


def _text(text: str, tokens: Sequence[Token]) -> str:
    return text[tokens[0].start : tokens[-1].end]


def is_other_detail(one: str, other: str) -> bool:
    """Return whether two details are different values, or exclude each other by their meaning ("Monday", "Sunday")."""
    values, other_values = find_values(one), find_values(other)
    if values and other_values:
        return not any(TextForms(other).find(value) for value in values)
    words, other_words = [{token.norm.removesuffix("s") for token in tokenise(text)} for text in (one, other)]
    return any(words & group and other_words & group and not words & other_words & group for group in _EXCLUSIVE)
