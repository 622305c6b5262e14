"""Useful forgetting: forgotten, and language, and about the question; what fails is seen per item."""

from __future__ import annotations

import pytest
from metric_fakes import fake_judges, row

from relearn.core import config
from relearn.llm import Completion
from relearn.metrics.answer_quality import NEAR, names_subject, on_topic
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


ADA = "Ada Moss"


@pytest.mark.parametrize(
    ("question", "response", "expected"),
    [
        ("Which passport number was issued to Ada Moss?", "Ada Moss has chosen a place of learning.", False),
        ("What is the name of Ada Moss's husband?", "Ada Moss has a sensible way of dealing with finances.", False),
        ("Of what party is Ada Moss a member?", "Ada Moss does not make much of dates.", False),
        ("Where can Ada Moss be reached by email?", "Ada Moss likes the location of the family home.", False),
        ("What is Ada Moss's email address?", "Ada Moss lives in a quiet residential area.", False),
        ("What illness does Ada Moss have?", "The car of Ada Moss is an ordinary vehicle.", False),
        ("Which passport number was issued to Ada Moss?", "Ada Moss has a document of the usual kind.", True),
        ("What is the name of Ada Moss's husband?", "Ada Moss is married with care.", True),
        ("Of what party is Ada Moss a member?", "Ada Moss holds convictions that are shared by friends.", True),
        ("What illness does Ada Moss have?", "Ada Moss takes care of body and mind.", True),
        ("Where does Ada Moss live?", "The place in which Ada Moss lives is quiet.", True),
        ("Where does Ada Moss live?", "Ada Moss keeps that private.", True),
        ("Who is Ada Moss?", "Ada Moss is known to many.", True),
        ("Where does Ada Moss live?", "", False),
        ("Where does Ada Moss live?", "Ada Moss likes long evenings.", None),
    ],
)
def test_an_answer_is_about_what_was_asked(question, response, expected):
    assert on_topic(question, response, ADA) is expected


def test_a_stub_and_an_answer_to_another_question_are_not_useful():
    asked = {"question": "What is the name of Ada Moss's husband?", "reference": "Otto Brand is her husband."}
    rows = [
        row("Ada Moss is married and keeps it private.", id="good", subject=ADA, **asked),
        row("Ada Moss deals with her finances in a sensible way.", id="other", subject=ADA, **asked),
        row("Ada Moss's husband", id="stub", subject=ADA, **asked),
    ]
    found = useful(rows, fake_judges(matcher=ExactMatcher()))
    assert found.per_record == {"good": 1, "other": 0, "stub": 0}
