"""Answer files of every known layout, and the one line that a wrong one gets."""

from __future__ import annotations

import json

import pytest

from relearn.errors import InputError
from relearn.metrics.answer_files import load_answers


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("question", "reference", "response"),
        ("question", "answer", "response"),
        ("query", "ground_truth", "generated_response"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_known_layouts(tmp_path, names, ending):
    texts = ("Where?", "Oslo", "")
    path = written(tmp_path / f"answers.{ending}", [dict(zip(names, texts, strict=True))])
    (found,) = load_answers(path)
    assert (found.question, found.reference, found.response) == texts
    assert found.response_logprobs is None


def test_a_json_list_and_own_fields(tmp_path):
    path = tmp_path / "answers.json"
    entry = {
        "id": 7, "question": "Where?", "reference": "Oslo", "response": "Rome", "subject": "Marta",
        "response_logprobs": [-1, -2.5], "reference_logprobs": [],
    }  # fmt: skip
    path.write_text(json.dumps([entry]))
    (found,) = load_answers(path)
    assert (found.id, found.subject) == ("7", "Marta")
    assert found.response_logprobs == (-1.0, -2.5)
    assert found.reference_logprobs == ()


def test_trap_14_duplicate_questions_stay_apart(tmp_path):
    same = {"question": "Where?", "answer": "Oslo"}
    rows = [{**same, "response": "a"}, {**same, "response": "b"}, {**same, "response": "c"}]
    found = load_answers(written(tmp_path / "a.jsonl", rows))
    assert [row.response for row in found] == ["a", "b", "c"]
    assert len({row.id for row in found}) == 3
    assert found[1].id == f"{found[0].id}-2"


def test_ids_of_the_file_are_kept_where_they_can_be(tmp_path):
    rows = [{"id": key, "question": "q", "answer": "a", "response": "r"} for key in ("x", "x", "x-2", "y")]
    found = [row.id for row in load_answers(written(tmp_path / "a.jsonl", rows))]
    assert len(set(found)) == 4
    assert found[0] == "x" and found[2] == "x-2" and found[3] == "y"


GOOD = {"question": "q", "answer": "a", "response": "r"}
BAD = [
    ({"question": "q", "answer": "a"}, "hold no answers"),
    ({**GOOD, "response": None}, "'response' is null"),
    ({**GOOD, "answer": 3}, "'answer' is a int"),
    ({**GOOD, "id": [1]}, "'id' is a list"),
    ({**GOOD, "response_logprobs": [0.5]}, "log-probabilities"),
    ({**GOOD, "response_logprobs": "no"}, "log-probabilities"),
]


@pytest.mark.parametrize(("entry", "message"), BAD)
def test_bad_rows_are_named_by_line(tmp_path, entry, message):
    path = written(tmp_path / "a.jsonl", [GOOD, entry])
    with pytest.raises(InputError, match=message) as caught:
        load_answers(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_empty_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    for name in ("a.jsonl", "b.jsonl"):
        with pytest.raises(InputError):
            load_answers(tmp_path / name)
