"""`worst_case` without a run: other wordings are written, brought by the records, or stand in the files of answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import relearn
from relearn.core.files import read_json, read_jsonl
from relearn.inference.run_models import ModelSet
from relearn.synthesis.questions import record_id_of_wording
from relearn.workflows.evaluate import evaluation as evaluation_run
from workflows.evaluate.asked import evaluate, refused

FACTS = [
    {
        "id": "holm",
        "question": "Where does Ada Holm live?",
        "answer": "Ada Holm lives at 12 Mill Lane in Whitby.",
        "paraphrases": ["In which place is Ada Holm's home?"],
    },
    {"id": "aske", "question": "When was Ben Aske born?", "answer": "Ben Aske was born on 12 March 1984."},
]
TOLD, KEPT = "At 12 Mill Lane in Whitby.", "That is private."
# Judged by entities alone: no model but the one that finds them.
PLAIN = [
    "--set",
    "metrics.entailment=null",
    "--set",
    "metrics.matcher=exact",
    "--set",
    "metrics.bootstrap=20",
    "--metrics",
    "worst_case,kfr",
]
SHORT = ["--set", "generate.max_new_tokens=3", "--set", "generate.temperature=3"]


@pytest.fixture(autouse=True)
def facts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("forget.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))


def said(rows, name: str = "said.jsonl") -> str:
    """A file of answers about Ada Holm; `rows`: (id, answer, what else the row has)."""
    about = {"question": FACTS[0]["question"], "answer": FACTS[0]["answer"]}
    Path(name).write_text("".join(json.dumps({"id": i, **about, "response": r, **more}) + "\n" for i, r, more in rows))
    return name


def after(out: str = "out") -> dict:
    return read_json(Path(out) / "summary.json")["after"]


def per_record(out: str = "out") -> dict:
    return read_json(Path(out) / "scores.json")["after"]["forget"]["metrics"]["worst_case"]["per_record"]


# Models


def test_both_models_are_asked_the_same_other_wordings(tiny_model_dir, monkeypatch):
    model = str(tiny_model_dir)
    options = ["--forget", "forget.jsonl", "--before", model, "--after", model, *PLAIN, *SHORT]
    assert evaluate(*options, "--set", "metrics.worst_case=3", "--out", "out") == 0
    written = {row["record_id"]: row["questions"] for row in read_jsonl(Path("out/wordings.jsonl"))}
    assert written["holm"][0] == "In which place is Ada Holm's home?"
    assert [len(set(questions)) for questions in written.values()] == [3, 3]
    for side in ("before", "after"):
        rows = read_jsonl(Path(f"out/{side}/wordings.jsonl"))
        assert [row["question"] for row in rows] == [*written["holm"], *written["aske"]]
        assert [record_id_of_wording(row["id"]) for row in rows] == ["holm"] * 3 + ["aske"] * 3
        assert {row["subject"] for row in rows} == {"Ada Holm", "Ben Aske"}
        found = read_json(Path("out/summary.json"))[side]
        assert found["forget"]["worst_case"]["n"] == 2 and found["forget_wordings"]["kfr"]["n"] == 6
    assert "4 wordings a fact" in after()["forget"]["worst_case"]["note"]
    assert read_json(Path("out/summary.json"))["difference"]["forget"]["worst_case"]["value"] == 0
    # The same command writes and asks nothing; another number of wordings asks these alone.
    monkeypatch.setattr(ModelSet, "get", lambda *_: pytest.fail("a model is loaded"))
    monkeypatch.setattr(evaluation_run, "write_wordings", lambda *_, **__: pytest.fail("wordings are written"))
    assert evaluate(*options, "--set", "metrics.worst_case=3", "--out", "out") == 0


def test_another_number_of_wordings_asks_the_wordings_alone(tiny_model_dir, monkeypatch):
    options = ["--forget", "forget.jsonl", "--after", str(tiny_model_dir), *PLAIN, *SHORT, "--out", "out"]
    asked, ask = [], evaluation_run.ask
    monkeypatch.setattr(
        evaluation_run,
        "ask",
        lambda loaded, records, *a, **k: asked.append(len(records)) or ask(loaded, records, *a, **k),
    )
    assert evaluate(*options, "--set", "metrics.worst_case=1") == 0
    assert evaluate(*options, "--set", "metrics.worst_case=2") == 0
    assert asked == [2, 2, 4]
    assert evaluate("out", "--set", "metrics.worst_case=0", "--set", "measure=[kfr]") == 0
    assert asked == [2, 2, 4] and set(after()["forget"]) == {"kfr"}


def test_what_could_not_be_worded_anew_is_unscored_with_the_reason(tiny_model_dir, monkeypatch):
    monkeypatch.setattr(
        evaluation_run, "write_wordings", lambda records, *_, **__: {record.id: [] for record in records}
    )
    options = ["--forget", "forget.jsonl", "--after", str(tiny_model_dir), *PLAIN, *SHORT, "--out", "out"]
    assert evaluate(*options, "--set", "metrics.worst_case=2") == 0
    found = after()["forget"]["worst_case"]
    assert (found["value"], found["unscored"]) == (None, 2)
    assert found["missing"] == "2 of 2 unscored: no question was asked in other words"


def test_questions_do_not_leave_the_machine_unasked(tiny_model_dir, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.example/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    options = ["--forget", "forget.jsonl", "--after", str(tiny_model_dir), "--set", "synthesis.generator=openai:any"]
    line = refused(capsys, *options, "--set", "metrics.worst_case=2")
    assert "the questions of 2 private records would be sent to elsewhere.example" in line


def test_worst_case_by_name_without_wordings_says_how_to_get_them(tiny_model_dir, capsys):
    options = ["--forget", "forget.jsonl", "--after", str(tiny_model_dir), "--metrics", "worst_case"]
    assert "--set metrics.worst_case=5" in refused(capsys, *options)
    assert "rows with a `wording`" in refused(capsys, "--forget", said([("a", KEPT, {})]), "--metrics", "worst_case")


# Files of answers


def skip_without_entities(found: dict) -> None:
    if found["n"] == 0:
        pytest.skip(found.get("note", "no entity extractor"))


@pytest.mark.parametrize("first", [0, 1, None], ids=["from 0", "from 1", "own row without"])
def test_rows_of_one_record_are_its_wordings(first, capsys):
    """Worked by hand: of three facts one is told to its own question, one to its second wording, one to none."""
    number = lambda n: {} if first is None and n == 0 else {"wording": n + (first or 0)}  # noqa: E731
    answers = {"a": [TOLD, KEPT, KEPT], "b": [KEPT, KEPT, TOLD], "c": [KEPT, KEPT, KEPT]}
    rows = [(key, text, number(n)) for key, texts in answers.items() for n, text in enumerate(texts)]
    assert evaluate("--forget", said(rows), *PLAIN, "--out", "out") == 0
    found = after()
    skip_without_entities(found["forget"]["kfr"])
    assert per_record() == {"a": 0, "b": 0, "c": 1}
    assert found["forget"]["worst_case"]["value"] == pytest.approx(1 / 3)
    assert found["forget"]["kfr"]["value"] == pytest.approx(2 / 3)
    assert found["forget_wordings"]["kfr"]["value"] == pytest.approx(5 / 6)
    shown = capsys.readouterr().out
    assert "To forget (3)" in shown and "To forget, in other words (6)" in shown and "Worst case" in shown
    assert "To forget, in other words" in Path("out/report.html").read_text()


def test_csv_columns_under_other_names():
    with Path("said.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "prompt", "label", "output", "form_of_question"])
        writer.writerow(["a", FACTS[0]["question"], FACTS[0]["answer"], KEPT, ""])
        writer.writerow(["a", "Ada Holm, where?", FACTS[0]["answer"], TOLD, "2"])
    columns = "id=key,question=prompt,answer=label,response=output,wording=form_of_question"
    assert evaluate("--forget", "said.csv", "--map", columns, *PLAIN, "--out", "out") == 0
    assert [row["id"] for row in read_jsonl(Path("out/after/wordings.jsonl"))] == ["a~2"]
    skip_without_entities(after()["forget"]["kfr"])
    assert per_record() == {"a": 0}


def test_the_files_of_a_run_score_as_the_run_does(tiny_model_dir, tmp_path):
    values = {
        "model": str(tiny_model_dir),
        "data": {"forget": "forget.jsonl", "retain": "retain.jsonl"},
        "audit": "none",
        "unlearn": {"method": "grad_diff", "epochs": 1, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 3},
        "metrics": {"bootstrap": 20, "worst_case": 2, "entailment": None, "matcher": "exact"},
    }
    Path("retain.jsonl").write_text(json.dumps({"question": "What does Cy Doe do?", "answer": "He bakes."}) + "\n")
    made = relearn.run(relearn.Recipe.from_mapping(values), tmp_path / "run").path
    both = [(made / f"after/{name}.jsonl").read_text() for name in ("forget", "wordings")]
    Path("said.jsonl").write_text("".join(both))
    assert evaluate("--forget", "said.jsonl", *PLAIN, "--out", "out") == 0
    its = read_json(made / "summary.json")["after"]
    assert after()["forget"]["worst_case"] == its["forget"]["worst_case"]
    assert after()["forget_wordings"]["kfr"] == its["forget_wordings"]["kfr"]


def test_wordings_asked_for_and_not_in_the_file_are_unscored_with_the_reason():
    rows = said([("a", KEPT, {}), ("b", TOLD, {})])
    assert evaluate("--forget", rows, *PLAIN, "--set", "metrics.worst_case=3", "--out", "out") == 0
    found = after()["forget"]["worst_case"]
    assert (found["value"], found["n"], found["unscored"]) == (None, 0, 2)
    assert "no question was asked in other words" in found["missing"]


def test_other_wordings_of_what_is_kept_are_left_out_and_said_so():
    retain = said([("k", KEPT, {}), ("k", TOLD, {"wording": 1})], "kept.jsonl")
    assert (
        evaluate("--forget", said([("a", KEPT, {})]), "--retain", retain, "--metrics", "rouge_l", "--out", "out") == 0
    )
    assert any(
        "1 rows of kept.jsonl are other wordings; left out" in note
        for note in read_json(Path("out/manifest.json"))["notes"]
    )
    assert after()["retain"]["rouge_l"]["n"] == 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(None, KEPT, {"wording": 1})], "said.jsonl:1: a wording without the 'id' of its record"),
        ([("a", KEPT, {"wording": -1})], "said.jsonl:1: 'wording' is not a count -> write 0, 1, 2"),
        ([("a", KEPT, {"wording": "first"})], "'wording' is not a count"),
        ([("a", KEPT, {"wording": "9" * 5000})], "'wording' is not a count"),
        ([("a", KEPT, {"wording": 1}), ("a", TOLD, {"wording": 1})], "said.jsonl:2: the id 'a' is already that of"),
        ([("a", KEPT, {}), ("a", TOLD, {})], "said.jsonl:2: the id 'a' is already that of"),
    ],
    ids=["no id", "negative", "word", "long", "twice", "no column"],
)
def test_wrong_wordings_are_one_line(capsys, rows, expected):
    assert expected in refused(capsys, "--forget", said(rows))
