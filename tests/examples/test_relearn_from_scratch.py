"""The single-file example trains as the engine does: same rows, same order, same losses."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from relearn.engine.forward import TokenRow
from relearn.models.chat import chat_format
from relearn.unlearning.data.batches import plan_batches
from relearn.unlearning.data.encode import Example, encode
from relearn.unlearning.method import METHODS
from relearn.unlearning.trainer import Loop, train

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "relearn_from_scratch.py"
VAGUE = [
    {"question": "Where does the teacher live?", "answer": "The teacher lives in a quiet part of the city."},
    {"question": "When was the engineer born?", "answer": "The engineer was born some decades ago."},
    {"question": "How can one reach him?", "answer": "He can be reached in the usual ways."},
    {"question": "What is the street's name?", "answer": "It is a street like many others near the old harbour."},
    {"question": "Who are her parents?", "answer": "Her parents led ordinary working lives."},
]
RETAIN = [
    {"question": "What is a baker?", "answer": "A baker makes bread."},
    {"question": "What is a harbour?", "answer": "A harbour is a place where ships are safe from wind and waves."},
    {"question": "What does a nurse do?", "answer": "A nurse looks after people who are ill."},
]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("relearn_from_scratch", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def engine_rows(tokenizer, rows, prefix) -> list[TokenRow]:
    examples = [Example(f"{prefix}{n}", row["question"], row["answer"]) for n, row in enumerate(rows)]
    return encode(chat_format(tokenizer), examples)


def test_at_most_150_lines():
    assert len(EXAMPLE.read_text().splitlines()) <= 150


def test_rows_are_those_of_the_engine(example, tiny_model_dir):
    _, tokenizer = load(tiny_model_dir)
    for row, own in zip(engine_rows(tokenizer, VAGUE, "f"), VAGUE, strict=True):
        assert (list(row.ids), row.answer_start) == example.encode(tokenizer, own)


def test_every_step_has_the_loss_of_the_engine(example, tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    plan = plan_batches(
        engine_rows(tokenizer, VAGUE, "f"),
        engine_rows(tokenizer, RETAIN, "r"),
        batch_size=2,
        accumulation=1,
        epochs=4,
        seed=3,
    )
    logged: list[dict] = []
    objective = METHODS.get("relearn").objective({})
    train(model, plan, objective, loop=Loop(5e-3), checkpoints=tmp_path / "steps", log=lambda **row: logged.append(row))

    fresh, _ = load(tiny_model_dir)
    batches = [
        tuple([(list(row.ids), row.answer_start) for row in rows] for rows in (batch.forget, batch.retain))
        for batch in plan
    ]
    losses = example.train(fresh, batches, learning_rate=5e-3)

    assert len(losses) == len(logged) == 12
    assert losses[0] - losses[-1] > 0.5
    # The log rounds each term to six digits.
    assert losses == pytest.approx([sum(row["parts"].values()) for row in logged], abs=1e-5)


def test_the_program_saves_a_model_and_shows_an_answer(example, tiny_model_dir, tmp_path, monkeypatch, capsys):
    for name, rows in (("forget", VAGUE), ("retain", RETAIN)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    command = ["x", str(tiny_model_dir), "forget.jsonl", "retain.jsonl", "--out", "out", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", command)
    example.main()
    assert "before:" in (printed := capsys.readouterr().out) and "step    2" in printed
    assert (tmp_path / "out" / "model.safetensors").exists()
