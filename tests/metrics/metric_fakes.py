"""Judges for tests: entities and verdicts written down beforehand, nothing loaded."""

from __future__ import annotations

from collections.abc import Sequence

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.judges import Judges
from relearn.metrics.nli import NLIVerdict
from relearn.text.entities import ExactMatcher, Matcher


class CapitalisedEntities:
    """Every capitalised word or number is an entity; `fails` are texts the extractor has no answer for."""

    name = "capitals"

    def __init__(self, fails: Sequence[str] = ()):
        self.fails = set(fails)
        self.asked: list[str] = []

    def extract(self, texts: Sequence[str]) -> list[list[str] | None]:
        self.asked.extend(texts)
        return [None if text in self.fails else self._entities(text) for text in texts]

    def _entities(self, text: str) -> list[str]:
        words = [word.strip(".,?!'\"") for word in text.split()]
        return [word for word in words if word[:1].isupper() or word[:1].isdigit()]


class WrittenJudge:
    """Gives the label that `labels` has for the answer, "neutral" for others, None for "fail"; remembers its pairs."""

    name = "written"
    truncated = 0

    def __init__(self, labels: dict[str, str | None]):
        self.labels = labels
        self.pairs: list[tuple[str, str]] = []

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[NLIVerdict]:
        self.pairs.extend(pairs)
        return [NLIVerdict(self._label(premise, hypothesis)) for premise, hypothesis in pairs]

    def _label(self, premise: str, hypothesis: str):
        return self.labels.get(premise, self.labels.get(hypothesis, "neutral"))


def fake_judges(
    *, fails: Sequence[str] = (), labels: dict[str, str | None] | None = None, matcher: Matcher | None = None
) -> Judges:
    entailment = None if labels is None else WrittenJudge(labels)
    return Judges((CapitalisedEntities(fails),), matcher or ExactMatcher(), entailment)


def row(response: str, reference: str = "Oslo Rome Paris Lima", question: str = "where to?", **more) -> AnswerRow:
    return AnswerRow(more.pop("id", "row"), question, reference, response, **more)
