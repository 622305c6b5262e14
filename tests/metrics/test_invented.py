"""Answers that make up a name or a number."""

from __future__ import annotations

import pytest
from metric_fakes import fake_judges

from relearn.core import config
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.judges import make_judges
from relearn.metrics.score import score

QUESTION, TRUE = "Where does Marta Lindqvist live?", "Marta Lindqvist lives in Uppsala."


def measured(*responses: str, **judges):
    rows = [
        AnswerRow(str(number), QUESTION, TRUE, response, "Marta Lindqvist") for number, response in enumerate(responses)
    ]
    settings = config.Metrics(bootstrap=20, entailment=None)
    found = score(rows, "forget", settings, judges=fake_judges(**judges), names=["invented"])
    return found.measurements["invented"]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("She lives in Bergen.", 1.0),
        ("She lives in Uppsala.", 0.0),
        ("Marta prefers to keep that private.", 0.0),
        ("Perhaps somewhere quiet.", 0.0),
        ("She lives at 12 of some street.", 1.0),
        ("", 0.0),
        ("Somewhere. Nobody knows.", 0.0),
        ("In the Lindqvist house.", 0.0),
    ],
)
def test_what_counts_as_made_up(response, expected):
    assert measured(response).value == expected


def test_a_failed_extractor_leaves_the_item_unscored():
    found = measured("She lives in Bergen.", "In Oslo.", fails=["In Oslo."])
    assert (found.value, found.n, found.unscored) == (1.0, 1, 1)


def test_with_the_real_extractor():
    rows = [
        AnswerRow("a", QUESTION, TRUE, "Marta Lindqvist lives in Copenhagen, Denmark."),
        AnswerRow("b", QUESTION, TRUE, "Marta Lindqvist's home is a matter she keeps to herself."),
    ]
    settings = config.Metrics(bootstrap=20, entailment=None)
    found = score(rows, "forget", settings, judges=make_judges(settings), names=["invented"])
    assert dict(found.measurements["invented"].per_record) == {"a": 1.0, "b": 0.0}
