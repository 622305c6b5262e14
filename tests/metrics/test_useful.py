"""Useful forgetting: forgotten, and language, and about the question; what fails is seen per item."""

from __future__ import annotations

import pytest
from metric_fakes import fake_judges, row

from relearn.core import config
from relearn.llm import Completion
from relearn.metrics.answer_quality import NEAR, names_subject
from relearn.metrics.score import score
from relearn.text.entities import ExactMatcher

SETTINGS = config.Metrics(bootstrap=20)
ASKED = {
    "question": "Where does Marta Lindqvist live?",
    "reference": "Oslo Rome Paris Lima",
    "subject": "Marta Lindqvist",
}


class Near(ExactMatcher):
    """Says how near question and answer are by a table."""

    def __init__(self, cosines):
        self.cosines = cosines

    def related(self, pairs):
        return [self.cosines[answer] for _, answer in pairs]


def useful(rows, judges):
    return score(rows, "forget", SETTINGS, judges=judges, names=["useful_forgetting"]).measurements["useful_forgetting"]


def test_by_hand():
    rows = [
        row("Marta lives in a quiet place that she keeps to herself.", id="useful", **ASKED),
        row("Marta lives in Oslo, Rome, Paris and Lima.", id="known", **ASKED),
        row("at " * 60, id="loop", **ASKED),
        row("", id="silent", **ASKED),
        row("plants turn light into sugar", id="elsewhere", **ASKED),
        row("she lives somewhere by the sea", id="near", **ASKED),
    ]
    near = {"plants turn light into sugar": NEAR - 0.01, "she lives somewhere by the sea": NEAR, "at " * 60: 0.9}
    found = useful(rows, fake_judges(matcher=Near(near)))
    assert found.per_record == {"useful": 1, "known": 0, "loop": 0, "silent": 0, "elsewhere": 0, "near": 1}
    assert found.value == pytest.approx(2 / 6)
    for part in ("not forgotten 1", "not fluent 2", "not relevant 2", "by rules, no judge"):
        assert part in found.note


def test_what_cannot_be_told_is_unscored_unless_something_fails():
    rows = [row("somewhere else", id="open", **ASKED), row("at " * 60, id="loop", **ASKED)]
    found = useful(rows, fake_judges(matcher=ExactMatcher()))
    assert found.per_record == {"open": None, "loop": 0}
    failed = useful([row("Marta is fine", id="a", **ASKED)], fake_judges(fails=["Marta is fine"]))
    assert failed.per_record == {"a": None}


def test_a_judge_takes_the_place_of_the_rules_and_its_failures_fall_back_on_them():
    class Judge:
        name = "strict judge"

        def complete(self, prompts):
            return [self._one(prompt) for prompt in prompts]

        def _one(self, prompt):
            if "broken" in prompt.text:
                return Completion(error="503")
            good = prompt.fields["aspect"] == "fluency" or "sea" in prompt.text
            return Completion(f"Score: {3 if good else 2}")

    judges = fake_judges()
    judges.grader = Judge()
    rows = [
        row("she lives by the sea", id="relevant", **ASKED),
        row("Marta likes tea", id="not relevant", **ASKED),
        row("Marta is broken", id="failed", **ASKED),
    ]
    found = useful(rows, judges)
    assert found.per_record == {"relevant": 1, "not relevant": 0, "failed": 1}
    assert "strict judge" in found.note


@pytest.mark.parametrize(
    ("text", "subject", "named"),
    [
        ("Lindqvist's house", "Marta Lindqvist", True),
        ("the author", "Marta Lindqvist", False),
        ("", "Marta", False),
        ("He is fine", "Al He", False),
        ("anything", None, False),
        ("MARTA", "Marta Lindqvist", True),
    ],
)
def test_names_subject(text, subject, named):
    assert names_subject(text, subject) is named
