"""Answers and the log-probabilities of all reference answers, under the model and under the base model."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from relearn.core.config import Generate, Model
from relearn.data import Record
from relearn.engine.forward import answer_logprobs, answer_scores
from relearn.engine.generate import Response
from relearn.inference import answers as module
from relearn.inference.answers import Answers, ask, with_response_logprobs
from relearn.metrics.answer_row import AnswerRow
from relearn.models.load import load
from relearn.unlearning.data.encode import encode, record_example

RECORDS = (
    Record(
        "Where does she live?",
        "In Oslo.",
        "a",
        paraphrased_answer="Oslo is her home.",
        alternatives=("In Rome.", "In Lima, by the sea."),
    ),
    Record("Who is he?", "A baker.", "b"),
    Record("Once there was", "a quiet street near the harbour", "c", form="text"),
)
SHORT = Generate(max_new_tokens=4)


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load(Model(name=str(tiny_model_dir)))


@pytest.fixture(scope="module")
def asked(loaded):
    return ask(loaded, RECORDS, SHORT, membership=True)


def test_every_answer_at_hand_is_scored_as_if_alone(loaded, asked):
    for record, row in zip(RECORDS, asked.rows, strict=True):
        kept = AnswerRow.from_dict(row)
        alone = answer_scores(loaded.model, encode(loaded.chat, [record_example(record)]))[0]
        assert kept.reference_logprobs == pytest.approx(alone.logprobs.tolist(), abs=1e-4)
        assert kept.reference_hits == tuple(alone.hits.tolist())
        assert [mean for mean, _ in kept.reference_moments or ()] == pytest.approx(alone.mean.tolist(), abs=1e-4)
        others = [*filter(None, [record.paraphrased_answer]), *record.alternatives]
        rows = encode(loaded.chat, [replace(record_example(record), target=text) for text in others])
        found = [*filter(None, [kept.paraphrased_logprobs]), *(kept.perturbed_logprobs or ())]
        assert len(found) == len(others)
        for logprobs, scores in zip(found, answer_scores(loaded.model, rows), strict=True):
            assert logprobs == pytest.approx(scores.logprobs.tolist(), abs=1e-4)


def test_the_end_of_the_turn_is_known(loaded, asked):
    end = len(loaded.tokenizer(loaded.chat.end, add_special_tokens=False).input_ids)
    assert [row["closing_tokens"] for row in asked.rows] == [end, end, 0]
    assert end > 0


def test_only_what_was_measured_is_kept(loaded, asked):
    assert "perturbed_logprobs" not in asked.rows[1] and "paraphrased_logprobs" not in asked.rows[1]
    plain = ask(loaded, RECORDS, SHORT)
    assert not any("reference_moments" in row for row in plain.rows)
    assert [row["response"] for row in plain.rows] == [row["response"] for row in asked.rows]


def test_a_file_holds_seven_digits_and_is_read_back(asked, tmp_path):
    asked.write(tmp_path / "answers.jsonl")
    back = Answers.read(tmp_path / "answers.jsonl")
    assert back.rows == asked.rows
    assert module._rounded(-0.000123456789) == -0.0001234568
    row = AnswerRow.from_dict(json.loads(json.dumps(asked.rows[0])))
    assert AnswerRow.from_dict(row.to_dict()) == row and isinstance(row.perturbed_logprobs[0], tuple)


def test_holdout_records_are_scored_and_not_asked(loaded, monkeypatch):
    questions = []
    monkeypatch.setattr(
        module, "respond", lambda _, asked, *rest, **more: questions.extend(asked) or [Response("")] * len(asked)
    )
    rows = ask(loaded, [replace(record, split="holdout") for record in RECORDS], SHORT, membership=True).rows
    assert questions == []
    assert all(row["response"] == "" and row["reference_logprobs"] and row["reference_moments"] for row in rows)


def test_an_answer_cut_off_in_its_thoughts_is_marked_and_said(loaded, monkeypatch, capsys):
    said = [Response("In Oslo."), Response("", cut_off=True, thought_tokens=4)]
    monkeypatch.setattr(module, "respond", lambda _, asked, *rest, **more: said[: len(asked)])
    rows = ask(loaded, RECORDS[:2], SHORT).rows
    assert [(row["response"], row.get("cut_off")) for row in rows] == [("In Oslo.", None), ("", True)]
    assert [AnswerRow.from_dict(row).cut_off for row in rows] == [False, True]
    noted = " ".join(capsys.readouterr().err.split())
    assert "1 of 2 answers cut off" in noted and "model.thinking: off" in noted


def test_questions_asked_several_times_have_a_row_for_each(loaded):
    settings = Generate(max_new_tokens=6, temperature=1.5, repeats=3)
    records = [*RECORDS[:2], replace(RECORDS[1], id="h", split="holdout")]
    found = ask(loaded, records, settings)
    assert [(row["repeat"], row["id"]) for row in found.rows] == [
        (0, "a"),
        (0, "b"),
        (0, "h"),
        (1, "a"),
        (1, "b"),
        (2, "a"),
        (2, "b"),
    ]
    assert len({row["response"] for row in found.rows if row["id"] == "a"}) > 1
    rows = with_response_logprobs(loaded, found)[0].rows
    lengths = {len(loaded.tokenizer(row["response"]).input_ids): len(row["response_logprobs"]) for row in rows}
    assert all(row["response_logprobs"] or not row["response"] for row in rows) and len(lengths) > 1


def test_base_model_scores_responses_and_the_references_of_attacked_rows(loaded, asked):
    rows = with_response_logprobs(loaded, asked)[0].rows
    # The base model is the model asked, so it thinks the same of the references.
    for row in rows:
        assert row["base_logprobs"] == pytest.approx(row["reference_logprobs"], abs=1e-4)
    [plain] = with_response_logprobs(loaded, ask(loaded, RECORDS, SHORT))
    assert not any("base_logprobs" in row for row in plain.rows)


def test_several_models_answers_are_scored_as_if_alone_and_what_they_share_once(loaded, monkeypatch):
    def said(*responses):
        records = zip(RECORDS, responses, strict=True)
        return Answers(
            [
                {
                    "id": record.id,
                    "question": record.question,
                    "reference": record.answer,
                    "response": text,
                    "form": record.form,
                }
                for record, text in records
            ]
        )

    files = [said("In Oslo.", "A baker.", "a street"), said("In Oslo.", "", "a harbour"), said("By the sea.", "He", "")]
    alone = [with_response_logprobs(loaded, answers)[0].rows for answers in files]
    scored = []

    def spy(model, rows):
        scored.extend(rows)
        return answer_logprobs(model, rows)

    monkeypatch.setattr(module, "answer_logprobs", spy)
    together = [answers.rows for answers in with_response_logprobs(loaded, *files)]
    assert len(scored) == 6  # Of nine answers two are empty and one is said twice.
    assert together[0][0]["response_logprobs"] == together[1][0]["response_logprobs"]
    for one, other in zip([*alone[0], *alone[1], *alone[2]], [row for rows in together for row in rows], strict=True):
        assert other["response_logprobs"] == pytest.approx(one["response_logprobs"], abs=1e-4)
        assert {**one, "response_logprobs": 0} == {**other, "response_logprobs": 0}
    assert [row["response_logprobs"] for row in (together[1][1], together[2][2])] == [[], []]
    assert with_response_logprobs(loaded) == []


def test_what_is_no_number_is_not_measured():
    assert module._plain([-1.0, math.nan]) is None
    assert module._plain([-1.0, -math.inf]) == [-1.0, -10_000.0]
    assert json.dumps(module._plain([-math.inf]), allow_nan=False)
