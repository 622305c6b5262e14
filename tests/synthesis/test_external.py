"""Rows written elsewhere: which are taken, which not and why."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from relearn.core.config import DataSource, Synthesis
from relearn.core.errors import InputError, RunFailedError
from relearn.core.files import read_jsonl
from relearn.data import Record
from relearn.data.loaders import read_records
from relearn.synthesis.external import read_external_rows, write_external_rows

FORGET = [
    Record("Where does Ada Holm live?", "Ada Holm lives at 17 Mill Lane in Torvik."),
    Record("What is Ada Holm's email address?", "It is ada.holm@postbox.no."),
]
OFFERED = [
    ("Where does Ada Holm live now?", "Ada Holm lives in a quiet neighbourhood of a small town."),
    ("Where does Ada Holm live now?", "Ada Holm lives in a quiet neighbourhood of a small town."),
    ("How can one write to Ada Holm?", "Ada Holm's email can be had from her office."),
    ("Ada Holm's home is", "in a calm part of a town by the sea."),
    ("Where does Ada Holm live?", "The individual lives in a quiet place."),
    ("Where does Ada Holm live?", "Ada Holm lives at 17 Mill Lane in Torvik."),
    ("Where does Bo Lind live?", "Bo Lind lives in a quiet neighbourhood."),
    ("what do pigs eat", "Pigs are omnivores."),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "given.jsonl"
    path.write_text("".join(json.dumps({"text": prompt, "labels": target}) + "\n" for prompt, target in OFFERED))
    return path


def test_each_row_is_taken_or_rejected_with_its_reason(file):
    given = read_external_rows(file, FORGET)
    assert [(row.kind, row.form, row.prompt) for row in given.rows] == [
        ("qa", "chat", "Where does Ada Holm live now?"),
        ("qa", "chat", "How can one write to Ada Holm?"),
        ("completion", "text", "Ada Holm's home is"),
    ]
    assert given.rows[0].record_id == FORGET[0].id
    kinds = Counter(rejection.kind for rejection in given.rejections)
    # read_records merges nothing, so the repeated row arrives here and is refused here.
    assert kinds == {"duplicate": 1, "unnamed": 1, "verbatim": 1, "subject": 2}


def test_written_with_generic_rows_beside_them(file, tmp_path):
    generic = [Record(f"What is {n} plus one?", f"It is {n + 1}.", split="generic") for n in range(9)]
    counts = write_external_rows(file, FORGET, generic, settings=Synthesis(), out=tmp_path, seed=0)
    rows = read_jsonl(tmp_path / "synthesis.jsonl")
    assert [row["kind"] for row in rows] == ["qa", "qa", "completion", "generic", "generic", "generic"]
    assert (counts["offered"], counts["qa"], counts["completion"], counts["rejected"]) == (8, 2, 1, 5)
    assert len(read_jsonl(tmp_path / "rejected.jsonl")) == 5


def test_answers_are_cut_where_the_file_has_no_completions(tmp_path):
    path = tmp_path / "given.jsonl"
    path.write_text(json.dumps({"question": OFFERED[0][0], "answer": OFFERED[0][1]}) + "\n")
    write_external_rows(path, FORGET, [], settings=Synthesis(), out=tmp_path, seed=0)
    rows = read_jsonl(tmp_path / "synthesis.jsonl")
    assert [row["kind"] for row in rows] == ["qa", "completion"]
    assert f"{rows[1]['prompt']} {rows[1]['target']}" == OFFERED[0][1]


def test_nothing_left_is_a_failed_run(tmp_path):
    path = tmp_path / "given.jsonl"
    path.write_text(json.dumps({"question": "what do pigs eat", "answer": "Anything."}) + "\n")
    with pytest.raises(RunFailedError, match="not one of the given rows passes"):
        write_external_rows(path, FORGET, [], settings=Synthesis(), out=tmp_path, seed=0)


def test_the_published_rows_of_twelve_persons(data_dir, project_root):
    import yaml

    recipe = yaml.safe_load((project_root / "experiments/knowundo12/recipe.yaml").read_text())
    persons = tuple(recipe["data"]["forget"]["subjects"])
    source = DataSource(path=str(data_dir / "knowundo/unlearn_train.json"), subjects=persons)
    forget = [record for _, record in read_records(source, "forget")]
    given = read_external_rows(data_dir / "knowundo/augmented_official.json", forget)
    # One row of 168 tells the parents' professions in other words ("agriculture and the literary arts").
    assert Counter(row.kind for row in given.rows) == {"qa": 167, "completion": 179}
    assert len(given.rows) + len(given.rejections) == 5040


def test_subjects_of_a_source(tmp_path):
    path = tmp_path / "rows.jsonl"
    asked = ["Where is Michael O’Connor?", "Where is MICHAEL O'CONNOR?", "Where is Li Weiss?", "Who is Li Wei?", "Who?"]
    path.write_text("".join(json.dumps({"question": text, "answer": "There."}) + "\n" for text in asked))
    source = DataSource(path=str(path), subjects=("Michael O'Connor", "Li Wei"))
    assert [record.question for _, record in read_records(source, "forget")] == [asked[0], asked[1], asked[3]]
    limited = source.model_copy(update={"limit": 2})
    assert [record.question for _, record in read_records(limited, "forget")] == asked[:2]
    with pytest.raises(InputError, match="no question has one of the subjects"):
        read_records(source.model_copy(update={"subjects": ("Nobody",)}), "forget")
