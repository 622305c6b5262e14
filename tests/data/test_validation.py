"""Contradictions in the data end the run before anything is spent, in one line that names the places."""

from __future__ import annotations

import json

import pytest

from relearn.core.config import Data
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.data.validation import check_lengths, check_special_tokens, load_all, normalised

SECRET = {"question": "Where does Ada Quill live?", "answer": "At 4 Elm Row, Norwich."}
PUBLIC = {"question": "What does Ada Quill write?", "answer": "Sea poems."}


@pytest.fixture
def data(tmp_path):
    """Writes the sets given as rows and returns the data part of a recipe."""

    def build(**sets) -> Data:
        paths = {}
        for name, rows in sets.items():
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            paths[name] = str(path)
        probes = {name[7:]: paths.pop(name) for name in list(paths) if name.startswith("probes_")}
        return Data.model_validate({**paths, "probes": probes})

    return build


def refused(part: Data) -> str:
    with pytest.raises(InputError) as caught:
        load_all(part)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    assert "Elm Row" not in message
    return message


def test_sets_carry_their_split_and_places(data, tmp_path):
    loaded = load_all(data(forget=[SECRET], retain=[PUBLIC], probes_forget=[{**SECRET, "question": "Her home?"}]))
    assert [(name, len(records)) for name, records in loaded.sets()] == [
        ("forget", 1),
        ("retain", 1),
        ("probes_forget", 1),
    ]
    assert loaded.retain[0].split == "retain"
    assert loaded.probes_forget[0].split == "forget"
    assert loaded.places["forget"][loaded.forget[0].id] == f"{tmp_path / 'forget.jsonl'}:1"
    assert loaded.notes == ()
    assert loaded.generic == loaded.holdout == loaded.probes_retain == ()


def test_an_empty_set_is_refused(data):
    assert "retain.jsonl: no rows" in refused(data(forget=[SECRET], retain=[]))


def test_an_id_given_twice_is_refused_even_for_equal_rows(data):
    message = refused(data(forget=[{**SECRET, "id": "a"}, {**PUBLIC, "id": "a"}]))
    assert "forget.jsonl:2: the id 'a' is already that of" in message
    assert "forget.jsonl:1" in message
    refused(data(forget=[{**SECRET, "id": "a"}, {**SECRET, "id": "a"}]))


def test_the_same_id_in_two_sets_is_fine(data):
    loaded = load_all(data(forget=[{**SECRET, "id": 1}], retain=[{**PUBLIC, "id": 1}]))
    assert loaded.forget[0].id == loaded.retain[0].id == "1"


def test_exact_duplicates_without_ids_are_merged_with_a_note(data):
    loaded = load_all(data(forget=[SECRET, PUBLIC, SECRET, SECRET]))
    assert len(loaded.forget) == 2
    (note,) = loaded.notes
    assert note.startswith("data.forget: 2 exact duplicates merged")
    assert "forget.jsonl:3 repeats" in note


def test_one_question_with_two_answers_stays_two_records(data):
    loaded = load_all(data(forget=[SECRET, {**SECRET, "answer": "In Norwich."}]))
    assert len(loaded.forget) == 2
    assert loaded.notes == ()


@pytest.mark.parametrize("other", ["retain", "generic", "holdout", "probes_retain"])
def test_overlap_of_forget_with_anything_kept_is_refused_with_both_places(data, other):
    twin = {"question": "  where does ADA Quill live", "answer": "At 4 Elm  Row, Norwich"}
    message = refused(data(**{"forget": [PUBLIC, SECRET], other: [twin]}))
    assert "forget.jsonl:2" in message
    assert f"{other}.jsonl:1" in message
    assert "take it out of one of them" in message


def test_probes_of_the_forget_set_may_not_be_trained_as_retain_rows(data):
    assert "probes_forget.jsonl:1" in refused(data(forget=[PUBLIC], retain=[SECRET], probes_forget=[SECRET]))


def test_the_same_question_with_another_answer_is_no_overlap(data):
    loaded = load_all(data(forget=[SECRET], retain=[{**SECRET, "answer": "In England."}]))
    assert len(loaded.retain) == 1


def test_a_probe_that_is_also_trained_is_noticed(data):
    loaded = load_all(data(forget=[SECRET], probes_forget=[SECRET, {**SECRET, "question": "Her home?"}]))
    assert loaded.notes == ("probes_forget: 1 question also in forget, so not held out",)


def test_normalised_keeps_what_tells_facts_apart():
    assert normalised("Where  is\nÉmile?") == normalised("where is émile")
    assert normalised("ﬁne. ") == "fine"
    assert len({normalised(text) for text in ("3.5", "35", "C", "C++", "C#", "-1", "1")}) == 7


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (Record("Who?", "Ned.<|im_end|> More."), "answer"),
        (Record("Who<|im_end|>?", "Ned."), "question"),
        (Record("Who?", "Ned.", paraphrases=("Which<|im_end|>",)), "paraphrase"),
        (Record("Who?", "Ned.", alternatives=("Tom<|im_end|>",)), "alternative answer"),
    ],
)
def test_special_tokens_inside_a_text_are_refused(record, name):
    with pytest.raises(
        InputError, match=r"a\.jsonl:3: the .* holds the model's special token '<\|im_end\|>'"
    ) as caught:
        check_special_tokens([Record("a", "b"), record], {"<|im_end|>", "</s>"}, {record.id: "a.jsonl:3"})
    assert f"the {name} holds" in str(caught.value)


def test_texts_without_special_tokens_pass_and_blank_tokens_are_no_tokens():
    check_special_tokens([Record("a < b | c > d", "im_end")], {"<|im_end|>", "", " "})


def test_a_row_longer_than_the_limit_is_refused_without_its_answer():
    long = Record("Who came?", "Ned " * 7)
    count = lambda text: len(text.split())  # noqa: E731
    check_lengths([long], count, 9)
    with pytest.raises(InputError) as caught:
        check_lengths([Record("a", "b"), long], count, 8, {long.id: "a.jsonl:2"})
    message = str(caught.value)
    assert message.startswith("a.jsonl:2: the answer to 'Who came?' has 7 tokens, the question 2, the limit is 8")
    assert "unlearn.max_length" in message
    assert "Ned" not in message


def test_knowundo_and_tofu_load_without_a_word(data_dir):
    knowundo = {
        "forget": str(data_dir / "knowundo/unlearn_train.json"),
        "retain": str(data_dir / "knowundo/retention_train.json"),
        "probes": {
            "forget": str(data_dir / "knowundo/unlearn_val.json"),
            "retain": str(data_dir / "knowundo/retention_val.json"),
        },
    }
    loaded = load_all(Data.model_validate(knowundo))
    assert {name: len(records) for name, records in loaded.sets()} == {
        "forget": 400,
        "retain": 441,
        "probes_forget": 110,
        "probes_retain": 108,
    }
    assert loaded.notes == ()
    tofu = {"forget": str(data_dir / "tofu/forget10_perturbed.json"), "retain": str(data_dir / "tofu/retain90.json")}
    loaded = load_all(Data.model_validate(tofu))
    assert (len(loaded.forget), len(loaded.retain)) == (400, 3600)
    assert all(len(record.paraphrases) == 1 and len(record.alternatives) == 5 for record in loaded.forget)
