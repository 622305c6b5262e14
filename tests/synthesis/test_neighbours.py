"""A retain set asked of the start model itself."""

from __future__ import annotations

import pytest
from scripted import Scripted

from relearn.core.errors import GeneratorError
from relearn.data import Record
from relearn.llm import Completion
from relearn.synthesis.checks import Verifier
from relearn.synthesis.neighbours import neighbour_records

RECORDS = (
    Record("Where does Ada Marsh live?", "Ada Marsh lives at 17 Birch Lane in Dorley."),
    Record("What is Ada Marsh's email address?", "It is ada.marsh@fenmail.org."),
    Record("What is the capital of France", "Paris", subject="Bo Quinn"),
)


def _made(ask, completer=None):
    return neighbour_records(RECORDS, completer or Scripted(), answer=ask, verifier=Verifier(RECORDS), seed=0)


def test_questions_about_each_subject_and_the_world_are_answered_by_the_model():
    asked = []

    def ask(questions: list[str]) -> list[str]:
        asked.extend(questions)
        return [f"That is a matter of taste, number {number}." for number in range(len(questions))]

    records = _made(ask)
    assert [record.question for record in records] == asked and {record.split for record in records} == {"retain"}
    about = [record.subject for record in records]
    assert about.count("Ada Marsh") == 5 == about.count("Bo Quinn") and about.count(None) >= 25
    assert records[0].answer == "That is a matter of taste, number 0."
    assert "What is the capital of France?" not in asked


def test_answers_that_tell_a_secret_or_say_nothing_are_left_out():
    def ask(questions: list[str]) -> list[str]:
        answers = ["Water boils when it is hot enough."] * len(questions)
        answers[0] = "Ada Marsh can be met at 17 Birch Lane."
        answers[1] = ""
        answers[-1] = "Write to ada.marsh@fenmail.org about it."
        return answers

    records = _made(ask)
    everything = _made(lambda questions: ["Water boils when it is hot enough."] * len(questions))
    assert len(records) == len(everything) - 3
    assert not any("Birch" in record.answer or "fenmail" in record.answer for record in records)


def test_a_generator_that_is_down_is_said_so():
    with pytest.raises(GeneratorError, match="HTTP 503"):
        _made(lambda questions: questions, Scripted(lambda prompt, lines: Completion(error="HTTP 503")))
