"""The benchmark of evaluation does in both ways what it says, and draws its ratios from what it timed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import evaluate
import evaluate_parts
from check import NotEqualError

from relearn.core.config import Generate, Model
from relearn.data import Record
from relearn.metrics.nli import verdict_of
from relearn.models.load import load

HANDLES = {"speedup_total", "speedup_nli", "speedup_ppl", "speedup_generation"}
RECORDS = [
    Record("Who is she?", "She is a nurse.", split="forget"),
    Record("When was the engineer born, and who are her parents?", "On 12 March 1984.", split="retain"),
    Record("What street?", "In Elm Street.", split="forget"),
    Record("Where to?", "Where it was.", split="retain"),
]


class Judge:
    """The longer the premise, the more it entails."""

    name = "by length"
    truncated = 0

    def __init__(self):
        self.calls: list[list[tuple[str, str]]] = []

    def judge(self, pairs):
        self.calls.append(list(pairs))
        return [verdict_of([len(premise) / 1000, 0.0, 1 - len(premise) / 1000]) for premise, _ in pairs]


class Extractor:
    """Every word with a capital; keeps the texts it was given."""

    name = "capitals"

    def __init__(self):
        self.calls: list[list[str]] = []

    def extract(self, texts):
        self.calls.append(list(texts))
        return [[word for word in text.split() if word[0].isupper()] for text in texts]


@pytest.fixture
def bench(tiny_model_dir):
    judges = []

    def judge():
        judges.append(Judge())
        return judges[-1]

    made = evaluate_parts.Bench(
        load(Model(name=str(tiny_model_dir))), RECORDS, judge, Extractor(), Generate(max_new_tokens=20)
    )
    return made, judges


def test_both_ways_of_every_part_give_the_same(bench):
    made, judges = bench
    answers = ["She is Ann Lee.", "", "In Oslo, by the sea.", "Nobody knows."]
    for name in evaluate.PARTS:
        part = evaluate_parts.make(name, made, answers)
        whole = part.whole()
        assert len(whole) == len(part.sizes(whole)) == part.rows == (3 if name in ("ppl", "nli") else 4)
        assert all(part.same(part.single(number), whole[number]) for number in range(part.rows))
        assert all(size > 0 for size in part.sizes(whole))
    alone, together = judges
    # Forget rows ask whether the answer entails the reference, retain rows the other way; an empty answer nothing.
    pairs = [
        ("She is Ann Lee.", "She is a nurse."),
        ("In Oslo, by the sea.", "In Elm Street."),
        ("Where it was.", "Nobody knows."),
    ]
    assert together.calls == [pairs] and alone.calls == [[pair] for pair in pairs]


def test_questions_and_references_are_extracted_once_or_for_every_model(bench):
    made, _ = bench
    part = evaluate_parts.make("entities", made, ["Ann Lee of Oslo", "B", "C", "D"])
    assert part.whole()[0] == [["Who"], ["She"], ["Ann", "Lee", "Oslo"], ["Who"], ["She"], ["Lee", "Oslo"]]
    first, second = made.extractor.calls
    # The answers of one word are empty without it, four texts and the empty one.
    assert len(first) == 4 * 3 and second == ["Lee of Oslo", ""]
    made.extractor.calls.clear()
    part.single(0)
    question, answer = RECORDS[0].question, RECORDS[0].answer
    said = [question, answer, "Ann Lee of Oslo", question, answer, "Lee of Oslo"]
    assert made.extractor.calls == [[text] for text in said]


def test_what_is_said_is_what_the_model_says_alone(bench):
    made, _ = bench
    part = evaluate_parts.make("generation", made, ())
    whole = part.whole()
    assert [part.single(number) for number in range(4)] == whole
    assert part.sizes(["", *whole[1:]])[0] == 1


def test_single_rows_are_scaled_by_what_there_is_to_do(bench, monkeypatch):
    """Rows of size 1, 2, 3, 4; two of them alone, each a second; all at once a second as well."""
    clock = iter(range(1000))
    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: next(clock))
    part = evaluate_parts.Part(4, lambda: [0, 1, 2, 3], lambda n: n, lambda _: [1, 2, 3, 4], "tokens", int.__eq__)
    found, results = evaluate.compare("x", part, 2, 100.0, 2)
    assert results == [0, 1, 2, 3]
    single = found["one_at_a_time"]
    assert single["rows_measured"] == 2 and single["scale"] == 10 / sum(int(n) + 1 for n in single["each"])
    assert list(single["each"].values()) == [1, 1] and single["seconds"] == 2 * single["scale"]
    assert found["relearn"] == {"seconds": 1, "each": [1, 1]} and found["the_same"] == 2


def test_single_rows_stop_when_their_time_is_up(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: next(clock))
    part = evaluate_parts.Part(40, lambda: [0] * 40, lambda n: 0, lambda _: [1] * 40, "tokens", int.__eq__)
    found, _ = evaluate.compare("x", part, 40, 12.0, 2)
    assert 2 <= found["one_at_a_time"]["rows_measured"] < 10


def test_a_model_that_says_nothing_cannot_be_scored():
    part = evaluate_parts.Part(0, lambda: [], lambda n: n, lambda _: [], "tokens", int.__eq__)
    with pytest.raises(evaluate.NoDataError, match="no answer"):
        evaluate.compare("ppl", part, 4, 100.0, 2)


def test_other_results_are_no_comparison():
    part = evaluate_parts.Part(4, lambda: [0, 1, 2, 9], lambda n: n, lambda _: [1] * 4, "tokens", int.__eq__)
    with pytest.raises(NotEqualError, match="1 of 4 rows differ, the first is row 3"):
        evaluate.compare("x", part, 4, 100.0, 2)


def test_a_row_that_parts_at_a_tie_is_counted_apart():
    """Rows 2 and 3 differ. As a tie row 3 is no reason to refuse, row 2 alone would be: 1 of 4 is more than a tenth."""
    part = evaluate_parts.Part(
        4, lambda: [0, 1, 2, 9], lambda n: n, lambda _: [1] * 4, "tokens", int.__eq__, lambda n, a, b: n == 3
    )
    found, _ = evaluate.compare("x", part, 4, 100.0, 2)
    assert (found["the_same"], found["ties"]) == (3, 1)
    worse = replace(part, whole=lambda: [0, 1, 8, 9])
    with pytest.raises(NotEqualError, match="1 of 4 rows differ, the first is row 2"):
        evaluate.compare("x", worse, 4, 100.0, 2)


def test_answers_part_at_the_first_token_that_differs(bench):
    """The gap is that of the two next tokens after what both answers begin with, by the model's own logits."""
    made, _ = bench
    loaded, prompt = made.loaded, "Where is she?"
    ids = [loaded.tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, "Oslo", "Rome")]
    assert ids[1][0] != ids[2][0]
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([ids[0]])).logits[0, -1]
    expected = float(logits.max() - min(logits[ids[1][0]], logits[ids[2][0]]))
    assert evaluate_parts._gap(loaded, prompt, "Oslo", "Rome", 2) == pytest.approx(expected, abs=1e-5)
    assert expected > 0 and evaluate_parts._gap(loaded, prompt, "Oslo", "Oslo", 2) == 0


def test_on_a_gpu_both_ways_are_tried_before_the_clock_runs():
    calls = []
    part = evaluate_parts.Part(
        5, lambda: calls.append("all") or [], lambda n: calls.append(n), lambda _: [], "tokens", int.__eq__
    )
    evaluate.tried(part)
    assert calls == [0, 1, 2, "all"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["--device", "cuda"], "no CUDA GPU"), (["--backend", "vllm"], "generate.backend: vLLM needs a CUDA GPU")],
)
def test_without_a_gpu_what_needs_one_is_refused_in_one_line(data_dir, monkeypatch, capsys, options, expected):
    monkeypatch.setenv("RELEARN_DATA", str(data_dir))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert evaluate.main(options) == 2
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1


def test_the_headline_counts_two_models():
    """Generation and NLI twice, the others for both at once: (2*8 + 3 + 2*1 + 6) / (2*1 + 1 + 2*0.5 + 1)."""
    times = {"generation": (8, 1), "ppl": (3, 1), "nli": (1, 0.5), "entities": (6, 1)}
    parts = {name: {"one_at_a_time": {"seconds": a}, "relearn": {"seconds": b}} for name, (a, b) in times.items()}
    found = evaluate.headline(parts)
    assert found["speedup_total"] == 27 / 5
    assert [found[f"speedup_{name}"] for name in times] == [8, 3, 2, 6]


def test_everything_is_written_down(bench, tmp_path, monkeypatch):
    made, _ = bench
    monkeypatch.setattr(evaluate, "prepare", lambda plan, *_: replace(made, records=RECORDS[: plan.rows]))
    out = tmp_path / "found.json"
    assert evaluate.main(["--quick", "--tokens", "20", "--single", "3", "--rows", "4", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found) >= HANDLES and all(found[key] > 0 for key in HANDLES)
    assert found["machine"]["torch"] == torch.__version__ and found["rows"] == 4
    for part in found["parts"].values():
        assert len(part["relearn"]["each"]) == 2 and len(part["one_at_a_time"]["each"]) == min(3, part["rows"]) > 0


def test_without_data_there_is_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.delenv("RELEARN_DATA", raising=False)
    assert evaluate.main([]) == 2
    said = capsys.readouterr().err
    assert "RELEARN_DATA" in said and said.count("\n") == 1


def test_rows_are_mixed_and_the_same_every_time(data_dir, monkeypatch):
    monkeypatch.setenv("RELEARN_DATA", str(data_dir))
    found = evaluate.records()
    assert len(found) == 218 and found == evaluate.records()
    assert {record.split for record in found[:10]} == {"forget", "retain"}
