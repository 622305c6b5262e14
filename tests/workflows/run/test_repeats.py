"""A run whose questions are asked several times by sampling: what it writes, what it says, and that it repeats."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

import relearn
from people import people
from relearn.core.config import Generate, Model
from relearn.core.files import read_json, read_jsonl
from relearn.core.run_dir import RunFolder
from relearn.data import Record
from relearn.inference.answers import ask, with_response_logprobs
from relearn.models.load import load

SAMPLED = {"temperature": 1.0, "max_new_tokens": 6}
REPEATS = 3
FILES = ("before/forget.jsonl", "after/forget.jsonl", "summary.json", "scores.json")


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load(Model(name=str(tiny_model_dir)))


RECORDS = [Record(f"Where does Ada number {at} live?", "In Oslo.", f"id {at}") for at in range(4)]


def test_each_question_has_a_row_for_each_time_it_was_asked(loaded):
    rows = ask(loaded, RECORDS, Generate(**SAMPLED, repeats=REPEATS), seed=5).rows
    assert [(row["repeat"], row["id"]) for row in rows] == [(n, r.id) for n in range(REPEATS) for r in RECORDS]
    said = [tuple(row["response"] for row in rows if row["repeat"] == number) for number in range(REPEATS)]
    assert len(set(said)) == REPEATS
    once = ask(loaded, RECORDS, Generate(**SAMPLED), seed=5).rows
    assert tuple(row["response"] for row in once) == said[0]
    assert "repeat" not in once[0]
    assert ask(loaded, RECORDS, Generate(**SAMPLED, repeats=REPEATS), seed=5).rows == rows
    assert ask(loaded, RECORDS, Generate(**SAMPLED, repeats=REPEATS), seed=6).rows != rows


def test_every_answer_has_the_perplexity_of_its_own_words(loaded):
    asked = ask(loaded, RECORDS[:2], Generate(**SAMPLED, repeats=2), seed=5)
    for row, text in zip(asked.rows, ["one two three", "", "four", "five six"], strict=True):
        row["response"] = text
    found = [row["response_logprobs"] for row in with_response_logprobs(loaded, asked)[0].rows]
    assert found[1] == []
    assert len({len(found[0]), len(found[2])}) == 2
    assert found[2] != found[3]


@pytest.fixture(scope="module")
def recipe(tiny_model_dir, tmp_path_factory) -> relearn.Recipe:
    folder = tmp_path_factory.mktemp("repeated")
    return relearn.Recipe.from_mapping(
        {
            "model": {"name": str(tiny_model_dir)},
            "data": {
                "forget": people(folder / "private.jsonl", "private", 3),
                "retain": people(folder / "public.jsonl", "public", 3),
            },
            "audit": "none",
            "unlearn": {"method": "grad_diff", "epochs": 1, "lora": {"r": 2}},
            "generate": {**SAMPLED, "repeats": REPEATS},
            "metrics": {"bootstrap": 20, "matcher": "exact", "entailment": None},
        }
    )


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Path:
    return relearn.run(recipe, tmp_path_factory.mktemp("run") / "run").path


def test_numbers_are_of_questions_with_the_spread_between_seeds(finished):
    summary = read_json(finished / "summary.json")
    found = summary["after"]["forget"]["rouge_l"]
    assert (found["n"], found["unscored"], found["repeats"]) == (3, 0, REPEATS)
    assert found["seed_sd"] >= 0
    values = read_json(finished / "scores.json")["after"]["forget"]["metrics"]["rouge_l"]["per_record"]
    assert found["value"] == pytest.approx(sum(values.values()) / 3)
    assert summary["difference"]["forget"]["rouge_l"]["n"] == 3


def test_the_report_shows_a_question_once_and_says_how_often_it_was_asked(finished):
    report = read_json(finished / "report.json")
    part = report["answers"][0]
    assert len(part["items"]) == 3
    first = {row["id"]: row["response"] for row in read_jsonl(finished / "after/forget.jsonl") if row["repeat"] == 0}
    assert {item["id"]: item["after"]["response"] for item in part["items"]} == first
    assert all(len(item["after"]["repeats"]) == REPEATS for item in part["items"])
    assert any("asked 3 times" in note for note in report["measured_notes"])
    assert "from seed to seed" in (finished / "report.html").read_text()


def test_what_is_done_again_comes_out_the_same(finished, recipe):
    known = {name: (finished / name).read_bytes() for name in FILES}
    folder = RunFolder(finished)
    kept = {name: entry for name, entry in folder.manifest["stages"].items() if name not in ("after", "report")}
    folder.update_manifest(stages={name: kept[name] for name in kept if name not in ("perplexity", "scores")})
    (finished / "after/forget.jsonl").unlink()
    relearn.run(recipe, finished, resume=True)
    assert {name: (finished / name).read_bytes() for name in FILES} == known


SAID = {
    # id -> what was said each time, of the reference "one two three four"
    "a": ["one two three four", "one two", "nothing"],
    "b": ["one", "one", "one"],
    "c": ["three four"],
}


def test_answers_from_elsewhere_are_scored_by_round_and_averaged(tmp_path):
    """Worked by hand: rounds of (1 + 1/4 + 1/2)/3, (1/2 + 1/4)/2 and (0 + 1/4)/2; questions of 1/2, 1/4 and 1/2."""
    about = {"question": "Which numbers?", "answer": "one two three four"}
    rows = [
        {"id": key, **about, "response": text, "repeat": number}
        for key, texts in SAID.items()
        for number, text in enumerate(texts, start=1)
    ]
    (tmp_path / "f.json").write_text(json.dumps(rows))
    kept = [{"id": "k", **about, "response": text, "repeat": n} for n, text in enumerate(["one two three four", "one"])]
    (tmp_path / "r.json").write_text(json.dumps(kept))
    out = relearn.evaluate(
        forget=str(tmp_path / "f.json"),
        retain=str(tmp_path / "r.json"),
        measure=("rouge_l",),
        changes=("metrics.bootstrap=20",),
        out=tmp_path / "out",
    ).path
    found = read_json(out / "summary.json")["after"]
    forget, retain = found["forget"]["rouge_l"], found["retain"]["rouge_l"]
    assert (forget["n"], forget["unscored"], forget["repeats"]) == (3, 0, 3)
    assert forget["value"] == pytest.approx((1 / 2 + 1 / 4 + 1 / 2) / 3)
    assert forget["seed_sd"] == pytest.approx(statistics.stdev([1.75 / 3, 0.75 / 2, 0.25 / 2]))
    assert "1 questions are means of fewer than 3 answers" in forget["note"]
    # A set that was asked twice counts twice, not three times with its first round doubled.
    assert (retain["value"], retain["repeats"]) == (pytest.approx((1 + 1 / 4) / 2), 2)
    assert retain["seed_sd"] == pytest.approx(statistics.stdev([1, 1 / 4]))
    report = read_json(out / "report.json")
    assert [item["id"] for item in report["answers"][0]["items"]] == ["a", "b", "c"]
    assert any("asked up to 3 times" in note for note in report["measured_notes"])


def test_a_set_asked_once_beside_one_asked_often_has_no_spread(tmp_path):
    about = {"question": "Which numbers?", "answer": "one two"}
    rows = [{"id": "a", **about, "response": text, "repeat": n} for n, text in enumerate(["one", "two", "six"])]
    (tmp_path / "f.json").write_text(json.dumps(rows))
    (tmp_path / "r.json").write_text(json.dumps([{"id": "k", **about, "response": "one two"}]))
    out = relearn.evaluate(
        forget=str(tmp_path / "f.json"),
        retain=str(tmp_path / "r.json"),
        measure=("rouge_l",),
        changes=("metrics.bootstrap=20",),
        out=tmp_path / "out",
    ).path
    kept = read_json(out / "summary.json")["after"]["retain"]["rouge_l"]
    assert kept["value"] == 1 and "seed_sd" not in kept
