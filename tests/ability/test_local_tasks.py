"""Ability tasks from files: shapes, prompts, numbers worked by hand, a whole run with them."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from relearn.ability import TaskScore, ability_scores, check_ability, measure_ability
from relearn.ability.local_tasks import final_number, last_number, mean_score, read_task
from relearn.core.config import Ability, Model
from relearn.core.errors import InputError, MissingPartError
from relearn.core.files import write_json
from relearn.engine.generate import Response
from relearn.inference import choice_logprobs as asking
from relearn.inference.choice_logprobs import ChoiceQuestion, lettered, spelled
from relearn.metrics.metric import direction_of

MMLU = {
    "task": "moral_disputes",
    "question": "Is it so?\x85",
    "choices": ["yes", "no"],
    "answer": 1,
    "subject": "Ada Quill",
    "examples": [{"question": "Was it?", "choices": ["no", "yes"], "answer": 0, "subject": "moral_disputes"}],
}
SUM = {"question": "Two and two?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    from relearn.models.load import load

    return load(Model(name=str(tiny_model_dir)))


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_prompts_have_the_layout_of_the_field(tmp_path):
    (asked,) = read_task(write(tmp_path / "a.jsonl", [MMLU])).choices
    assert asked.right == 1
    assert lettered(asked) == (
        "The following are multiple choice questions (with answers) about moral disputes.\n\n"
        "Was it?\nA. no\nB. yes\nAnswer: A\n\n"
        "Is it so?\nA. yes\nB. no\nAnswer:"
    )
    assert spelled(asked) == "Question: Was it?\nAnswer: no\n\nQuestion: Is it so?\nAnswer:"
    assert lettered(ChoiceQuestion("Q?", ("a", "b"), 0)).startswith(
        "The following are multiple choice questions (with answers).\n\nQ?"
    )


def test_a_likelier_letter_and_text_win_by_hand(tmp_path, loaded, monkeypatch):
    """Two questions: by letter the first is right; by text over its length the second (-6/6 beats -2/1)."""
    rows = [
        {"question": "one?", "choices": ["abcdef", "b"], "answer": "A"},
        {"question": "two?", "choices": ["a", "bcdefg"], "answer": "bcdefg"},
    ]
    letters = {"one?": (-1.0, -2.0), "two?": (-1.0, -2.0)}
    texts = {"one?": (-9.0, -1.0), "two?": (-2.0, -6.0)}
    from relearn.ability import local_tasks

    monkeypatch.setattr(
        local_tasks, "letter_logprobs", lambda loaded, asked, tick: [letters[one.question] for one in asked]
    )
    monkeypatch.setattr(
        local_tasks, "text_logprobs", lambda loaded, asked, tick: [texts[one.question] for one in asked]
    )
    settings = Ability(tasks=(write(tmp_path / "two.jsonl", rows),))
    found = {outcome.name: outcome for outcome in measure_ability(loaded, settings)}
    assert found["two/acc"].items == {"0": 1.0, "1": 0.0}
    assert found["two/acc_by_text"].items == {"0": 0.0, "1": 1.0}
    assert found["two/acc"].value == 0.5 and "guessing gets 0.500" in found["two/acc"].note


def test_log_probabilities_are_those_of_one_row_at_a_time(loaded):
    """Packed with their shared prompt or each alone through the model: the same numbers."""
    import torch

    asked = [ChoiceQuestion("Where does he live?", ("in a street", "Oslo", "at 4 Elm Row"), 1)]
    (packed,) = asking.text_logprobs(loaded, asked)
    prompt = loaded.tokenizer(spelled(asked[0]), add_special_tokens=False).input_ids
    for text, found in zip(asked[0].choices, packed, strict=True):
        ids = loaded.tokenizer(f"{spelled(asked[0])} {text}", add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        alone = sum(float(logits[at - 1, ids[at]]) for at in range(len(prompt), len(ids)))
        assert found == pytest.approx(alone, abs=1e-3)


def test_where_the_right_choice_is_always_the_first_letters_say_nothing(tmp_path, loaded):
    row = {"question": "Is it?", "mc1_targets": {"choices": ["No.", "Yes."], "labels": [1, 0]}}
    path = write(tmp_path / "truthful.jsonl", [row, {**row, "question": "Was it?"}])
    assert [outcome.name for outcome in measure_ability(loaded, Ability(tasks=(path,)))] == ["truthful/acc_by_text"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so it is 18.", "18"),
        ("$1,200.50 in all", "1200.50"),
        ("from 3 to -4", "-4"),
        ("#### 70,000", "70000"),
        ("none", None),
        ("18.0", "18"),
        ("3 of 5 %", "5"),
        (".5", "0.5"),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


def test_final_numbers_stand_after_four_hashes():
    assert final_number(SUM["answer"]) == 4
    assert final_number("It is 4.") is None


def test_sums_by_the_last_number_said(tmp_path, loaded, monkeypatch):
    from relearn.ability import local_tasks

    said = ["2 and 2 make 4. #### 4", "It is 5", "four"]
    monkeypatch.setattr(local_tasks, "respond", lambda *_, **__: [Response(text) for text in said])
    path = write(tmp_path / "sums.jsonl", [SUM, {**SUM, "question": "b?"}, {**SUM, "question": "c?"}])
    (outcome,) = measure_ability(loaded, Ability(tasks=(path,)))
    assert (outcome.name, outcome.items) == ("sums/exact_match", {"0": 1.0, "1": 0.0, "2": 0.0})
    assert outcome.value == pytest.approx(1 / 3)
    cut = [Response("#### 4"), Response("", cut_off=True), Response("four")]
    monkeypatch.setattr(local_tasks, "respond", lambda *_, **__: cut)
    (outcome,) = measure_ability(loaded, Ability(tasks=(path,)))
    assert (outcome.items, outcome.value) == ({"0": 1.0, "1": None, "2": 0.0}, 0.5)


def test_the_interval_of_right_and_wrong_answers_is_that_of_a_share():
    """Clopper and Pearson's for 3 of 4: [.194, .994]; for 1 of 1: [.025, 1]."""
    outcome = mean_score("a/acc", {"0": 1.0, "1": 1.0, "2": 1.0, "3": 0.0, "4": None})
    measured = outcome.measurement
    assert (outcome.value, outcome.stderr, outcome.n) == (0.75, pytest.approx(0.25), 4)
    assert (measured.low, measured.high) == (pytest.approx(0.194, abs=1e-3), pytest.approx(0.994, abs=1e-3))
    assert measured.unscored == 1 and "standard errors" not in measured.note
    single = mean_score("a/acc", {"0": 1.0}).measurement
    assert (single.value, single.low, single.high) == (1.0, pytest.approx(0.025), 1.0)


def test_other_intervals_are_of_standard_errors_and_stay_in_0_1():
    """Items 1, 1, 1, .2: deviation .4, standard error .2, so .8 - .392 and 1 instead of 1.192."""
    measured = mean_score("a/f1", {"0": 1.0, "1": 1.0, "2": 1.0, "3": 0.2}).measurement
    assert (measured.low, measured.high) == (pytest.approx(0.408), 1.0) and "1.96 standard errors" in measured.note
    single = mean_score("a/f1", {"0": 0.5}).measurement
    assert (single.value, single.low, single.high) == (0.5, None, None)


def test_a_limit_takes_rows_evenly(tmp_path):
    rows = [{**MMLU, "question": f"{number}?"} for number in range(10)]
    task = read_task(write(tmp_path / "ten.jsonl", rows), limit=3)
    assert [asked.question for asked in task.choices] == ["0?", "3?", "6?"]


def test_shots_give_way_where_the_model_has_no_room(tmp_path, loaded):
    long = {"question": "word " * 900, "choices": ["a", "b"], "answer": 0}
    row = {**MMLU, "examples": [long, MMLU["examples"][0]]}
    path = write(tmp_path / "long.jsonl", [row, {**row, "answer": 0, "question": "other?"}])
    found = measure_ability(loaded, Ability(tasks=(path,)))
    assert found[0].note.startswith("by letter, 1 shots")
    assert measure_ability(loaded, Ability(tasks=(path,), shots=0))[0].note.startswith("by letter, 0 shots")


def test_what_is_no_task_is_refused(tmp_path, monkeypatch):
    neither = write(tmp_path / "neither.jsonl", [SUM, {"question": "Who?", "answer": "Ned."}])
    with pytest.raises(InputError, match=r"neither.jsonl:2: the row has neither choices"):
        check_ability(Ability(tasks=(neither,)))
    (tmp_path / "b").mkdir()
    twice = (write(tmp_path / "a.jsonl", [MMLU]), write(tmp_path / "b" / "a.jsonl", [MMLU]))
    with pytest.raises(InputError, match="two tasks are called 'a'"):
        check_ability(Ability(tasks=twice))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPartError, match=r"pip install 'relearn-llm\[lm-eval\]'"):
        check_ability(Ability(tasks=("mmlu",)))


def test_directions_of_ability_measures():
    assert direction_of("mmlu/acc", "retain") == "higher"
    assert direction_of("gsm8k/exact_match (strict-match)", "retain") == "higher"
    assert direction_of("wikitext/word_perplexity", "retain") == "lower"
    assert direction_of("nothing", "retain") is None


def test_outcomes_come_back_from_their_file(tmp_path):
    outcome = TaskScore("a/acc", 0.5, 0.1, 2, note="by letter", items={"0": 1.0, "1": 0.0})
    write_json(tmp_path / "ability.json", [outcome.to_dict()])
    scores = ability_scores(tmp_path / "ability.json")["ability"]
    assert scores.measurements == {"a/acc": outcome.measurement} and scores.split == "retain"
    assert ability_scores(tmp_path / "absent.json") == {}


def test_a_run_measures_ability_before_and_after(tiny_model_dir, tmp_path):
    import relearn
    from people import people
    from relearn.core.files import read_json

    rows = [{**MMLU, "question": f"{number}?", "answer": number % 2} for number in range(4)]
    values = {
        "model": {"name": str(tiny_model_dir)},
        "data": {
            "forget": people(tmp_path / "private.jsonl", "private", 2),
            "retain": people(tmp_path / "public.jsonl", "public", 2),
        },
        "audit": "none",
        "unlearn": {"method": "ga", "epochs": 1, "learning_rate": 1e-3, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 4},
        "metrics": {"bootstrap": 20, "ability": {"tasks": [write(tmp_path / "quiz.jsonl", rows)]}},
    }
    folder = relearn.run(relearn.Recipe.from_mapping(values), tmp_path / "run").path
    summary = read_json(folder / "summary.json")
    for when in ("before", "after"):
        assert set(summary[when]["ability"]) == {"quiz/acc", "quiz/acc_by_text"}
        assert summary[when]["ability"]["quiz/acc"]["n"] == 4
        assert len(read_json(folder / when / "ability.json")) == 2
    assert set(summary["difference"]["ability"]["quiz/acc"]) >= {"value", "low", "high"}
    report = read_json(folder / "report.json")
    (shown,) = [entry for entry in report["metrics"] if entry["part"] == "ability"]
    assert [row["better"] for row in shown["rows"]] == ["higher", "higher"]
    assert "quiz/acc_by_text" in (folder / "report.html").read_text()
    assert str(tmp_path / "quiz.jsonl") in read_json(folder / "manifest.json")["inputs"]
