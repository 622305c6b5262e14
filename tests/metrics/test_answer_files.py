"""Answer files of every known layout, and the one line that a wrong one gets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.core.config import Source
from relearn.core.errors import InputError
from relearn.metrics.answer_files import LAYOUTS, exported, has_responses, read_answers
from relearn.metrics.answer_row import AnswerRow, asked_first

GOOD = {"question": "q", "answer": "a", "response": "r"}


def load_answers(path):
    return [AnswerRow.from_dict(row) for row in read_answers(Source(path=str(path)))]


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
        "id": 7,
        "question": "Where?",
        "reference": "Oslo",
        "response": "Rome",
        "subject": "Marta",
        "response_logprobs": [-1, -2.5],
        "reference_logprobs": [],
    }
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


def test_ids_of_the_file_are_kept_and_those_made_up_avoid_them(tmp_path):
    same = {"question": "q", "answer": "a", "response": "r"}
    made = load_answers(written(tmp_path / "a.jsonl", [same]))[0].id
    rows = [same, {"id": f"{made}-2", **same}, same, {"id": 7, **same}]
    found = [row.id for row in load_answers(written(tmp_path / "b.jsonl", rows))]
    assert found == [made, f"{made}-2", f"{made}-3", "7"]


def test_an_id_that_stands_twice_is_refused_unless_the_question_was_repeated(tmp_path):
    rows = [{"id": "x", "question": "q", "answer": "a", "response": text} for text in "rs"]
    path = written(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=f"a.jsonl:2: the id 'x' is already that of {path}:1"):
        load_answers(path)
    repeated = [{**row, "repeat": number} for number, row in enumerate(rows)]
    found = load_answers(written(tmp_path / "b.jsonl", repeated))
    assert [(row.id, row.repeat) for row in found] == [("x", 0), ("x", 1)]


@pytest.mark.parametrize("numbers", [(0, 1), (1, 2), (7, 42), ("1", "2"), (1.0, 2.0), (None, 1)])
def test_repeats_are_counted_from_0_whatever_the_file_counts_from(tmp_path, numbers):
    rows = [{"id": "x", **GOOD, "response": text, "repeat": n} for text, n in zip("rs", numbers, strict=True)]
    found = load_answers(written(tmp_path / "a.jsonl", rows))
    assert [(row.id, row.response, row.repeat) for row in found] == [("x", "r", 0), ("x", "s", 1)]


def test_repeats_without_ids_are_tied_by_content_and_copies_stay_apart(tmp_path):
    other = {**GOOD, "question": "p"}
    rows = [{**row, "repeat": n} for n in (1, 2) for row in (GOOD, other, GOOD)]
    found = load_answers(written(tmp_path / "a.jsonl", rows))
    first, second = ([row.id for row in found if row.repeat == n] for n in (0, 1))
    assert first == second and len(set(first)) == 3
    assert first[2] == f"{first[0]}-2"


def test_a_csv_column_of_repeats_under_another_name(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,question,answer,response,seed\nx,q,a,r,1\nx,q,a,s,2\n")
    found = read_answers(Source(path=str(path), map={"repeat": "seed"}))
    assert [(row["id"], row["repeat"]) for row in found] == [("x", 0), ("x", 1)]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"repeat": 0}, "the id 'x' is already that of .*a.jsonl:1 -> .* told apart by a `repeat` column"),
        ({"repeat": 1, "question": "p"}, "the id 'x' has another question or true answer than at .*a.jsonl:1"),
        ({"repeat": 1, "answer": "b"}, "another question or true answer"),
        ({"repeat": -1}, "'repeat' is not a count"),
        ({"repeat": 1.5}, "'repeat' is not a count"),
        ({"repeat": True}, "'repeat' is not a count"),
        ({"repeat": "second"}, "'repeat' is not a count"),
    ],
)
def test_repeats_that_do_not_fit_are_named_by_line(tmp_path, second, message):
    path = written(tmp_path / "a.jsonl", [{"id": "x", **GOOD, "repeat": 0}, {"id": "x", **GOOD, **second}])
    with pytest.raises(InputError, match=message) as caught:
        load_answers(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_the_first_answer_is_that_of_the_lowest_repeat_of_each_question():
    rows = [{"id": "a", "repeat": 2}, {"id": "b"}, {"id": "a", "repeat": 1}, {"id": "c", "repeat": 1}]
    assert asked_first(rows) == [{"id": "a", "repeat": 1}, {"id": "b"}, {"id": "c", "repeat": 1}]


def test_other_columns_are_named_by_a_map(tmp_path):
    rows = [{"prompt": "Where?", "label": "Oslo", "output": "Rome", "who": "Marta", "key": "k"}]
    names = {"question": "prompt", "answer": "label", "response": "output", "subject": "who", "id": "key"}
    path = str(written(tmp_path / "a.jsonl", rows))
    (found,) = read_answers(Source(path=path, map=names))
    assert [found[name] for name in ("id", "question", "reference", "response", "subject", "form")] == [
        "k",
        "Where?",
        "Oslo",
        "Rome",
        "Marta",
        "chat",
    ]
    assert has_responses(Source(path=path, map=names)) and not has_responses(Source(path=path))


@pytest.mark.parametrize(
    ("mapped", "message"),
    [
        ({"questoin": "prompt"}, "no answer has -> did you mean 'question'"),
        ({"question": "promt"}, "the columns are 'prompt', 'answer', 'response' -> did you mean 'prompt'"),
        ({"answer": "response", "question": "prompt", "response": "respons"}, "did you mean 'response'"),
        ({"subject": "prompt"}, "hold no answers"),
    ],
)
def test_a_wrong_map_says_what_is_meant(tmp_path, mapped, message):
    path = written(tmp_path / "a.jsonl", [{"prompt": "q", "answer": "a", "response": "r"}])
    with pytest.raises(InputError, match=message):
        read_answers(Source(path=str(path), map=mapped))


@pytest.mark.parametrize(
    "rows",
    [
        [{"question": "q", "reference": "a", "answer": "b", "response": "r"}],
        [GOOD, {"query": "q", "ground_truth": "a", "generated_response": "r"}],
    ],
    ids=["in one row", "in two"],
)
def test_a_file_of_two_shapes_is_refused_with_the_map_that_decides(tmp_path, rows):
    path = written(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=r"fit .* and .* -> say which: --map question="):
        load_answers(path)


def test_a_file_of_two_shapes_loads_with_the_map(tmp_path):
    rows = [{"question": "q", "reference": "a", "answer": "b", "response": "r"}]
    source = Source(path=str(written(tmp_path / "a.jsonl", rows)), map={"question": "question", "answer": "reference"})
    assert read_answers(source)[0]["reference"] == "a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a",
        "word " * 4000,
        "\U0001f600\U0001f468\u200d\U0001f469",
        "\u4f60\u597d",
        "\u0645\u0631",
        "...!?",
        "a\x00b",
    ],
)
def test_degenerate_answers_come_back_as_they_are(tmp_path, text):
    (found,) = load_answers(written(tmp_path / "a.jsonl", [{"question": "q", "answer": "a", "response": text}]))
    assert found.response == text


def test_an_answer_cut_inside_a_character_can_be_written_again(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "answer": "a", "response": "so \\ud83d"}\n')
    (found,) = load_answers(path)
    assert found.response == "so \ufffd"
    found.response.encode("utf-8")


def test_all_that_a_run_measures_comes_back(tmp_path):
    row = {
        "id": "i",
        "question": "q",
        "reference": "a",
        "response": "r",
        "form": "text",
        "subject": None,
        "reference_logprobs": [-0.5, -1.0],
        "reference_hits": [1, 0],
        "reference_moments": [[-1.0, 0.5], [-2.0, 0.25]],
        "closing_tokens": 1,
        "paraphrased_logprobs": [-3.0],
        "perturbed_logprobs": [[-4.0], []],
        "base_logprobs": [-0.25],
        "response_logprobs": [-0.125],
        "tags": ["qa"],
        "choices": ["a", "b"],
        "choice": 1,
        "letter_logprobs": [-1.0, -2.0],
        "choice_logprobs": [-3.0, -4.0],
    }
    path = written(tmp_path / "a.jsonl", [row])
    assert read_answers(Source(path=str(path))) == [row]
    assert load_answers(path) == [AnswerRow.from_dict(row)]


layouts = st.sampled_from(LAYOUTS)
texts = st.text(st.characters(codec="utf-8"), max_size=40)


@given(rows=st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=8), layout=layouts)
def test_what_is_written_in_a_known_shape_is_read_back(tmp_path_factory, rows, layout):
    own = [dict(zip(LAYOUTS[0], row, strict=True)) for row in rows]
    path = tmp_path_factory.mktemp("round") / "a.json"
    path.write_text(json.dumps(exported(own, layout)), encoding="utf-8")
    found = read_answers(Source(path=str(path)))
    assert [(row["question"], row["reference"], row["response"]) for row in found] == rows
    assert len({row["id"] for row in found}) == len(rows)


BAD = [
    ({"question": "q", "answer": "a"}, "hold no answers"),
    ({**GOOD, "response": None}, "'response' is null"),
    ({**GOOD, "answer": 3}, "'answer' is a int"),
    ({**GOOD, "id": [1]}, "'id' is a list"),
    ({**GOOD, "response_logprobs": [0.5]}, "log-probabilities"),
    ({**GOOD, "response_logprobs": "no"}, "log-probabilities"),
    ({**GOOD, "response_logprobs": [float("nan")]}, "log-probabilities"),
    ({**GOOD, "reference_logprobs": [-1.0], "reference_hits": [1, 1]}, "'reference_hits' has 2 entries"),
    ({**GOOD, "reference_hits": ["yes"]}, "list of 1 and 0"),
    ({**GOOD, "perturbed_logprobs": [-1.0]}, "list of lists"),
    ({**GOOD, "reference_moments": [[1.0]]}, "pairs"),
    ({**GOOD, "closing_tokens": -1}, "a count"),
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
