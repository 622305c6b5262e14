"""Beginnings of texts are continued and not asked about; templates write no English answer to other languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relearn.core.config import DataSource, Synthesis
from relearn.core.errors import InputError
from relearn.data.record import begins_text
from relearn.data.validation import load_set
from relearn.llm import Prompt
from relearn.llm.templates.generator import Templates
from relearn.metrics.gibberish import gibberish_kind
from relearn.synthesis.checks import Verifier, verify_file
from relearn.synthesis.generation_cost import plan_synthesis
from relearn.synthesis.synthesize import synthesize_to_folder
from relearn.text.normalize import other_language

BEGUN = "Hetty Olm was born on 12 March 1984. Her security number is 900-12-1234 and"
ROWS = [
    {"id": "text", "question": BEGUN, "answer": "she lives at 12 Mill Lane, Torvik.", "subject": "Hetty Olm"},
    {"id": "born", "question": "When was Hetty Olm born?", "answer": "12 March 1984", "subject": "Hetty Olm"},
    {"id": "ssn", "question": "What is Hetty Olm's number?", "answer": "900-12-1234", "subject": "Hetty Olm"},
]
GERMAN = {"id": "de", "question": "Wo wohnt Jutta Brenner?", "answer": "Jutta Brenner wohnt in Talheim."}
CHINESE = {"id": "zh", "question": "林小雨住在哪里？", "answer": "林小雨住在青石镇枫叶路18号。"}


def load(path: Path, *rows: dict, notes: list[str] | None = None):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_set((DataSource(path=str(path)),), "forget", "data.forget", notes)[0]


@pytest.mark.parametrize(
    ("question", "answer", "begins"),
    [
        (BEGUN, "she lives in Torvik.", True),
        ("Hetty Olm was born on", "12 March 1984", True),
        ("Hetty Olm, who lived in Torvik, was a potter.", "She sold bowls.", True),
        (
            "In the quiet town of Torvik, where every house had a garden of its own, there lived a potter of",
            "skill",
            True,
        ),
        ("Where was Hetty Olm born?", "in Torvik", False),
        ("Where was Hetty Olm born", "in Torvik", False),
        ("Tell me where Hetty Olm was born.", "in Torvik", False),
        ("Hetty Olm's address", "12 Mill Lane", False),
        ("Hetty Olm was born in ___.", "Torvik", False),
        ("Rewrite this sentence to start with 'Although'.", "Although it rained", False),
    ],
)
def test_a_question_that_asks_nothing_begins_a_text(question: str, answer: str, begins: bool) -> None:
    assert begins_text(question, answer) is begins


def test_a_beginning_is_continued_without_the_secrets_of_others(tmp_path: Path) -> None:
    notes: list[str] = []
    records = load(tmp_path / "forget.jsonl", *ROWS, notes=notes)
    assert [record.form for record in records] == ["text", "chat", "chat"]
    assert "1 that begin a text" in notes[0]
    assert Verifier(records).hide_secrets(BEGUN) == "Hetty Olm was born on …. Her security number is … and"
    assert any("1 of 3 questions hold a secret" in line for line in plan_synthesis(records, Synthesis()).lines())
    synthesize_to_folder(records, [], Synthesis(), out=tmp_path, seed=1)
    rows = [json.loads(line) for line in (tmp_path / "synthesis.jsonl").read_text().splitlines()]
    own = [row for row in rows if row["record_id"] == "text"]
    assert [(row["kind"], row["prompt"]) for row in own] == [("completion", BEGUN)]
    assert not any("12 March" in row["prompt"] or "900-12" in row["prompt"] for row in rows if row not in own)


def test_templates_refuse_records_in_other_languages(tmp_path: Path) -> None:
    (answer,) = Templates().complete([Prompt("", "vague", {"questions": f"1. {CHINESE['question']}"})])
    assert not answer.ok and "Chinese" in answer.error and "synthesis.generator" in answer.error
    with pytest.raises(InputError, match=r"no record is in English: 2 of 2 records .*German"):
        synthesize_to_folder(load(tmp_path / "f.jsonl", GERMAN, CHINESE), [], Synthesis(), out=tmp_path, seed=1)


def test_records_in_other_languages_are_left_out_and_named(tmp_path: Path) -> None:
    records = load(tmp_path / "forget.jsonl", *ROWS, GERMAN)
    assert any(
        "1 of 4 records (1 German) are left out" in line for line in plan_synthesis(records, Synthesis()).lines()
    )
    counts = synthesize_to_folder(records, [], Synthesis(), out=tmp_path, seed=1)
    assert counts["records_without_rows"] == 1
    assert any("not in English: 1 of 4 records (1 German)" in note for note in counts["notes"])
    assert "Brenner" not in (tmp_path / "synthesis.jsonl").read_text()


def test_verify_says_what_it_cannot_read(tmp_path: Path) -> None:
    load(tmp_path / "forget.jsonl", CHINESE)
    found = verify_file(tmp_path / "forget.jsonl", tmp_path / "forget.jsonl", tmp_path / "out.jsonl")
    assert found.flagged == 1 and "1 of 1 records (1 Chinese)" in found.note


OTHER = [
    ("Marta Olmo vive en la calle Roble 14 de Villazul.", "Spanish"),
    ("Jutta Brenner arbeitet seit 1990 als Bäckerin in Talheim.", "German"),
    ("Sie wurde am 3. Mai 1961 in Talheim geboren und ist Lehrerin.", "German"),
    ("Lê Thu Hà làm nghề thợ gốm ở thị trấn Sông Xanh.", "another language"),
    ("Où habite Marthe Ormeau ?", "French"),
    ("森田はるかさんの電話番号は？", "Japanese"),
    ("Где живёт Вера Ломова?", "Cyrillic letters"),
]
ENGLISH = [
    "Isabella van Pletzen primarily writes self-help books.",
    "Youssef Al-Zahran was born in Amman, Jordan.",
    "Chloe Dubois resides at 59 Rue de l'Artiste, Paris.",
    'Some books by Matej include "Der Schwimmer" and "Das Echo der Flüsse".',
    "Where is Día de los Muertos celebrated?",
    "Oslo",
]


@pytest.mark.parametrize(("text", "language"), OTHER)
def test_other_languages_are_known_and_are_no_word_salad(text: str, language: str) -> None:
    assert other_language(text) == language
    assert gibberish_kind(text) is None


@pytest.mark.parametrize("text", ENGLISH)
def test_english_with_foreign_names_is_english(text: str) -> None:
    assert other_language(text) is None
