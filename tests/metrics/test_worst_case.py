"""A fact counts as forgotten only if no wording of its question brings it back."""

from __future__ import annotations

import pytest
from metric_fakes import fake_judges

import relearn
from people import people
from relearn.core import config
from relearn.core.files import read_json, read_jsonl
from relearn.data import Record
from relearn.llm.generators import make_completer
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.score import score_parts
from relearn.synthesis.checks import Verifier
from relearn.synthesis.questions import record_id_of_wording, wording_records, write_wordings

TRUE, VAGUE = "at home in Uppsala", "that is private"


def row(key: str, response: str) -> AnswerRow:
    return AnswerRow(key, "Where does Marta live?", TRUE, response, "Marta")


def worst(forget: list[AnswerRow], wordings: list[AnswerRow]):
    parts = {"forget": ("forget", forget), "forget_wordings": ("forget", wordings)}
    found = score_parts(parts, config.Metrics(bootstrap=20), judges=fake_judges(), names=["worst_case"])  # pyright: ignore
    return found["forget"].measurements["worst_case"]


def test_one_wording_that_brings_it_back_is_enough():
    found = worst(
        [row("a", VAGUE), row("b", VAGUE), row("c", TRUE)],
        [row("a~1", VAGUE), row("a~2", VAGUE), row("b~1", VAGUE), row("b~2", TRUE), row("c~1", VAGUE)],
    )
    assert found.per_record == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert found.value == pytest.approx(1 / 3)
    assert "2.67 wordings a fact" in found.note


def test_a_fact_without_other_wordings_is_judged_by_its_question():
    assert worst([row("a", VAGUE), row("b", TRUE)], [row("x~1", TRUE)]).per_record == {"a": 1.0, "b": 0.0}


def test_without_wordings_there_is_no_worst_case():
    parts = {"forget": ("forget", [row("a", VAGUE)])}
    found = score_parts(parts, config.Metrics(bootstrap=20), judges=fake_judges(), names=["kfr", "worst_case"])  # pyright: ignore
    assert set(found["forget"].measurements) == {"kfr"}


def test_wordings_are_different_questions_and_know_their_record():
    records = [
        Record("What is Marta Lindqvist's email address?", "It is marta@harbour.org.", "a~b", "Marta Lindqvist"),
        Record(
            "Where was Ines Duarte born?", "In Porto.", "c", "Ines Duarte", paraphrases=("Ines Duarte was born where?",)
        ),
    ]
    settings = config.Synthesis()
    written = write_wordings(
        records,
        5,
        settings,
        completer=make_completer("templates", settings, None),
        check_leaks=Verifier(records).leaks,
        seed=0,
    )
    assert written["c"][0] == "Ines Duarte was born where?"
    for record in records:
        assert 3 <= len(written[record.id]) <= 5
        assert len(set(written[record.id])) == len(written[record.id])
        assert record.question not in written[record.id]
    made = wording_records(records, written)
    assert {record_id_of_wording(one.id) for one in made} == {"a~b", "c"}
    assert len({one.id for one in made}) == len(made)
    assert all(one.answer == records[0].answer for one in made if record_id_of_wording(one.id) == "a~b")


def test_a_run_asks_the_wordings_before_and_after(tiny_model_dir, tmp_path):
    values = {
        "model": {"name": str(tiny_model_dir)},
        "data": {
            "forget": people(tmp_path / "a.jsonl", "private", 2),
            "retain": people(tmp_path / "b.jsonl", "public", 2),
        },
        "audit": "none",
        "unlearn": {"epochs": 1, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 4},
        "metrics": {"bootstrap": 20, "worst_case": 3, "entailment": None},
    }
    folder = relearn.run(relearn.Recipe.from_mapping(values), tmp_path / "run").path
    asked = read_jsonl(folder / "after/wordings.jsonl")
    forget = [row["id"] for row in read_jsonl(folder / "before/forget.jsonl")]
    assert {record_id_of_wording(row["id"]) for row in asked} == set(forget)
    assert [row["question"] for row in asked] == [
        row["question"] for row in read_jsonl(folder / "before/wordings.jsonl")
    ]
    summary = read_json(folder / "summary.json")
    assert summary["after"]["forget"]["worst_case"]["n"] == len(forget)
    assert "forget_wordings" in summary["after"]
    trained = {row["prompt"] for row in read_jsonl(folder / "synthesis.jsonl")}
    judged = read_json(folder / "scores.json")["after"]["forget_wordings"]["metrics"]["kfr"]["per_record"]
    assert set(judged) == {row["id"] for row in asked if row["question"] not in trained}
