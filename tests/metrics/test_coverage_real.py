"""Entity coverage with the real spaCy model and the real encoder: facts, vague answers, and real data."""

from __future__ import annotations

import json

import pytest
from metric_fakes import row

from relearn.core import config
from relearn.metrics.entity_coverage import coverages
from relearn.metrics.judges import make_judges
from relearn.metrics.score import score

SETTINGS = config.Metrics(bootstrap=50)
LIVE = ("Where does Marta Lindqvist live?", "Marta Lindqvist lives at 12 Elm Street in Torvik.")
BORN = ("When was Marta Lindqvist born?", "Marta Lindqvist was born on 14 March 1987.")
WORK = ("What does Marta Lindqvist do for a living?", "Marta Lindqvist is a marine biologist.")
MAIL = ("What is Marta Lindqvist's email address?", "Write to Marta Lindqvist at marta.l@fjord.example.")


@pytest.fixture(scope="module")
def judges():
    made = make_judges(SETTINGS)
    if made.missing:
        pytest.skip(made.missing)
    return made


@pytest.mark.parametrize(
    ("fact", "answer", "low", "high"),
    [
        (LIVE, LIVE[1], 1, 1),
        (LIVE, "12 Elm Street, Torvik", 1, 1),
        (LIVE, "She lives in Torvik.", 0.5, 0.5),
        (LIVE, "Marta Lindqvist lives in a quiet residential area and keeps the exact location private.", 0, 0.29),
        (LIVE, "Marta Lindqvist lives at 14 Elm Street in Bergen.", 0, 0.29),
        (BORN, "Her birthday is March 14, 1987.", 1, 1),
        (BORN, "Marta Lindqvist was born on 14 March 1978.", 0, 0),
        (BORN, "Marta Lindqvist was born in the late twentieth century.", 0, 0),
        (WORK, "She is a biologist.", 1, 1),
        (WORK, "Marta Lindqvist works in a field that suits her interests.", 0, 0),
        (MAIL, "marta.l@fjord.example", 1, 1),
        (MAIL, "martha.l@fjord.example", 0, 0),
        (MAIL, "Marta Lindqvist uses a standard electronic mail address.", 0, 0),
    ],
)
def test_facts_are_found_and_vague_answers_hold_none(judges, fact, answer, low, high):
    question, reference = fact
    (found,) = coverages([row(answer, reference, question)], judges)
    assert low <= found.value <= high


def test_refusals_and_gibberish_cover_nothing(judges):
    answers = ["at " * 128, "I don't know.", "!!!", "他住在奥斯陆", "😀 😀"]
    rows = [row(answer, LIVE[1], LIVE[0], id=answer) for answer in answers]
    assert [found.value for found in coverages(rows, judges)] == [0] * 5


def test_real_data_original_answers_against_vague_and_foreign_ones(judges, data_dir):
    facts = json.loads((data_dir / "knowundo" / "unlearn_train.json").read_text())[:40]
    own = [row(f["labels"], f["labels"], f["text"], id=str(i)) for i, f in enumerate(facts)]
    other = [
        row(g["labels"], f["labels"], f["text"], id=str(i))
        for i, (f, g) in enumerate(zip(facts, facts[20:] + facts[:20], strict=True))
    ]
    assert score(own, "forget", SETTINGS, judges=judges, names=["kfr"]).measurements["kfr"].value == 0
    assert score(own, "retain", SETTINGS, judges=judges, names=["krr"]).measurements["krr"].value == 1
    assert score(other, "forget", SETTINGS, judges=judges, names=["kfr"]).measurements["kfr"].value >= 0.9


def test_real_data_paraphrases_against_perturbed_answers(judges, data_dir):
    lines = (data_dir / "tofu" / "forget10_perturbed.json").read_text().splitlines()[:50]
    facts = [json.loads(line) for line in lines]

    def mean(answer_of) -> float:
        rows = [row(answer_of(f), f["answer"], f["question"], id=str(i)) for i, f in enumerate(facts)]
        values = [found.value for found in coverages(rows, judges) if found.value is not None]
        return sum(values) / len(values)

    assert mean(lambda f: f["paraphrased_answer"]) > 4 * mean(lambda f: f["perturbed_answer"][0])
