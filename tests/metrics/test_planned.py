"""What measuring will ask for: the very calls that are then made, and what they would show to whom."""

from __future__ import annotations

import json

import pytest

from relearn.core.config import Recipe
from relearn.data.validation import load_all
from relearn.llm import Completion
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.judge_cost import judge_cost
from relearn.metrics.judges import Judges, PromptedEntities
from relearn.metrics.llm_judge import ASPECTS, grade
from relearn.synthesis.generation_cost import REPEATED
from relearn.workflows.run.estimate import plan_lines

FORGET = [
    {"question": f"Where does Ada Marsh keep box {n}?", "answer": f"In the cellar of house {n}."} for n in range(20)
]
RETAIN = [{"question": f"What is the capital of land {n}?", "answer": f"It is town {n}."} for n in range(10)]


class Counting:
    """Says the same to everything and counts what it was asked."""

    name = "counting"

    def __init__(self, text: str):
        self.text, self.asked = text, 0

    def complete(self, prompts):
        self.asked += len(prompts)
        return [Completion(self.text) for _ in prompts]


@pytest.fixture
def recipe(tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.example.com/v1")
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(method: str = "npo_gdr", synthesis: dict | None = None, **metrics) -> Recipe:
        data = {name: str(tmp_path / f"{name}.jsonl") for name in ("forget", "retain")}
        return Recipe.from_mapping(
            {
                "model": str(tiny_model_dir),
                "data": data,
                "unlearn": {"method": method},
                "metrics": metrics,
                "synthesis": synthesis or {},
            }
        )

    return make


def planned_calls(recipe: Recipe) -> int:
    (spent,) = judge_cost(recipe, load_all(recipe.data))[0]
    return spent.calls


def answers(rows: list[dict], when: str) -> list[AnswerRow]:
    return [AnswerRow(str(n), row["question"], row["answer"], f"{when} {n}") for n, row in enumerate(rows)]


def again(calls: int) -> int:
    return round(calls * (1 + REPEATED))


def test_built_in_judges_ask_for_nothing(recipe):
    made = recipe()
    assert judge_cost(made, load_all(made.data)) == ([], [])


def test_entities_are_asked_for_as_often_as_planned(recipe):
    completer = Counting("None")
    judges = Judges([PromptedEntities(completer)])
    for when in ("before", "after"):
        for rows in (FORGET, RETAIN):
            for row in answers(rows, when + rows[0]["answer"]):
                judges.entities([row.question, row.reference, row.response])
    assert planned_calls(recipe(entities="generator")) == again(completer.asked) == again(30 * 4)


def test_grades_are_asked_for_as_often_as_planned(recipe):
    completer = Counting("Score: 3")
    for when in ("before", "after"):
        for aspect in ASPECTS:
            grade(answers(FORGET, when), aspect, completer)
            if aspect != "forgetting":
                grade(answers(RETAIN, when), aspect, completer)
    assert planned_calls(recipe(judge="openai:m")) == again(completer.asked) == again(2 * (3 * 20 + 2 * 10))


def test_other_wordings_are_graded_as_well(recipe):
    made = recipe(judge="openai:m", worst_case=2)
    _, grades = judge_cost(made, load_all(made.data))[0]
    assert grades.calls == again(2 * (3 * 20 * 3 + 2 * 10))


@pytest.mark.parametrize(("wordings", "calls"), [(1, 20), (3, 20), (4, 40)])
def test_wordings_come_three_to_a_call(recipe, wordings, calls):
    assert planned_calls(recipe(worst_case=wordings)) == again(calls)


def test_plan_says_what_measuring_shows_to_whom_and_what_has_to_be_allowed(recipe):
    made = recipe(judge="openai:m", entities="both", synthesis={"generator": "openai:n"})
    said = plan_lines(made)
    shown = "Leaves this machine: the questions and answers of 20 private records, to api.example.com"
    assert said.count(shown) == 2 and "Leaves this machine: nothing" not in said
    for key in ("synthesis.allow_remote", "metrics.allow_remote"):
        assert f"That needs {key}: true; the run will refuse without it" in said
    assert any(line.startswith("openai:m, grades: 168 calls") and "cost unknown" in line for line in said)
    assert any(line.startswith("openai:n, entities: 126 calls") for line in said)


def test_nothing_leaves_where_nothing_is_asked(recipe):
    said = plan_lines(recipe())
    assert "Leaves this machine: nothing" in said and not any("calls" in line for line in said)
