"""Outputs of relearn are told from files of the user; only outputs are overwritten or removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from relearn.core import ownership
from relearn.core.errors import InputError
from relearn.core.files import write_json
from relearn.core.run_dir import SIDES, RunFolder
from relearn.core.splits import SPLITS


def test_leftovers_of_a_killed_process_are_cleared(tmp_path):
    (tmp_path / "before").mkdir()
    for name in ("before/.forget.jsonl.k3_x9abz", "before/.retain.jsonl.k3_x9abz.relearn-tmp"):
        (tmp_path / name).write_text("half")
    for name in (".adapter.y2cd45_7", ".adapter.y2cd45_7.relearn-tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    (tmp_path / "kept.json").write_text("{}")
    ownership.clear_leftovers(tmp_path)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["before", "kept.json"]


def test_hidden_files_of_the_user_are_no_leftovers(tmp_path):
    own = (".env", ".git/config", ".venv/bin/python", ".recipe.yaml.swp", ".thesis.txt.abcdefgh", "before/.notes")
    for name in own:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    ownership.clear_leftovers(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(own)


def test_a_leftover_that_is_a_link_goes_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".adapter.y2cd45_7.relearn-tmp").symlink_to(tmp_path / "mine")
    ownership.clear_leftovers(run)
    assert not list(run.iterdir()) and (tmp_path / "mine" / "thesis.txt").exists()


RECIPE = "model: m\ndata: {forget: f.jsonl}\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"manifest.json": '{"stages": {}, "relearn": {"format": 1, "version": "0.1.0"}}'}, True),
        ({"manifest.json": '{"stages": {}}', "recipe.yaml": RECIPE}, True),
        ({"manifest.json": '{"stages": {}}', "evaluation.yaml": "forget: {path: f.jsonl}\n"}, True),
        ({"manifest.json": '{"stages": {}, "versions": {"relearn": "0.1.0"}}'}, True),
        ({"recipe.yaml": RECIPE}, False),
        ({"manifest.json": '{"stages": {}}'}, False),
        ({"manifest.json": '{"stages": {}}', "recipe.yaml": "flour: 500 g\n"}, False),
        ({"manifest.json": '{"name": "my extension"}', "recipe.yaml": RECIPE}, False),
        ({"manifest.json": "[]", "recipe.yaml": RECIPE}, False),
        ({"manifest.json": "half", "recipe.yaml": RECIPE}, False),
        ({"manifest.json": '{"relearn": "0.1.0"}'}, False),
    ],
    ids=[
        "marked",
        "run of 0.1",
        "evaluation of 0.1",
        "purged by 0.1",
        "recipe alone",
        "stages alone",
        "other recipe",
        "other manifest",
        "list",
        "no json",
        "no marker",
    ],
)
def test_whose_a_folder_is(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert ownership.is_ours(tmp_path) is expected


def test_a_folder_of_a_later_format_is_refused(tmp_path):
    write_json(tmp_path / "manifest.json", {"relearn": {"format": 2, "version": "9.0"}})
    with pytest.raises(InputError, match=r"made by relearn 9.0.* -> update relearn"):
        ownership.is_ours(tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((), True),
        (("lock",), True),
        (("lock", ".manifest.json.abcdefgh.relearn-tmp", ".recipe.yaml.abcdefgh"), True),
        (("manifest.json",), True),
        (("recipe.yaml",), False),
        ((".env",), False),
        (("summary.json",), False),
        (("before/forget.jsonl",), False),
        (("notes/lock",), False),
    ],
)
def test_what_counts_as_an_empty_folder(tmp_path, files, expected):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    if "manifest.json" in files:
        (tmp_path / "manifest.json").unlink()
        RunFolder(tmp_path).update_manifest()
    assert ownership.is_new(tmp_path) is expected


def test_a_lock_with_something_in_it_is_no_lock_of_ours(tmp_path):
    (tmp_path / "lock").write_text("packages: 12")
    assert (
        not ownership.is_new(tmp_path)
        and not ownership.is_new(tmp_path / "lock")
        and ownership.is_new(tmp_path / "absent")
    )


def test_the_list_of_outputs_knows_what_stages_and_procedures_write():
    from relearn.unlearning.method import METHODS
    from relearn.unlearning.procedures import PROCEDURES

    files = [f"{side}/{split.answer_file}" for side in SIDES for split in SPLITS.values()]
    for name in (*files, "start", "adapter"):
        assert ownership.is_output(name), name
    for method in METHODS:
        made = PROCEDURES.get(METHODS.get(method).procedure).result
        assert made is None or ownership.is_output(made), made
    for name in ("../evil", "/etc/passwd", "before/../../evil", "notes.txt", "before/mine.jsonl", ".git", "..", "."):
        assert not ownership.is_output(name), name


def test_outputs_are_removed_and_nothing_else(tmp_path):
    ours = ("log.jsonl", "before/forget.jsonl", "checkpoints/unlearn/checkpoint-3/complete", "audits/answers/a.jsonl")
    own = ("notes.txt", ".env", "before/notes.txt", "log.jsonl.bak", "src/before/forget.jsonl", "analysis", "start")
    for name in (*ours, *own):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "summary.json").mkdir()
    assert {str(path.relative_to(tmp_path)) for path in ownership.foreign_in(tmp_path)} == {
        "notes.txt",
        ".env",
        "before/notes.txt",
        "log.jsonl.bak",
        "src",
        "summary.json",
        "analysis",
        "start",
    }
    ownership.remove_outputs(tmp_path, ("log.jsonl",))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*own, "log.jsonl"} and not (tmp_path / "audits").exists()


@pytest.mark.parametrize("way", ["itself", "relative", "link", "hard link", "linked folder"])
def test_an_input_is_not_written_over_by_any_name(tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/forget.jsonl").write_text("{}")
    out = Path("out.jsonl")
    if way == "itself":
        out = tmp_path / "data" / "forget.jsonl"
    elif way == "relative":
        out = Path("data/../data/forget.jsonl")
    elif way == "link":
        out.symlink_to("data/forget.jsonl")
    elif way == "hard link":
        out.hardlink_to("data/forget.jsonl")
    elif way == "linked folder":
        Path("also").symlink_to("data")
        out = Path("also/forget.jsonl")
    for given in ("data/forget.jsonl", Path("data")):
        with pytest.raises(InputError, match=r"would be written over the input data.* -> choose another --out"):
            ownership.refuse_overwrite([out], [None, "owner/name", given])
    ownership.refuse_overwrite([Path("data/new.jsonl")], ["data/forget.jsonl", "data"])


@pytest.mark.parametrize("name", ["../../evil", "..", ".", "", ".git", "a/b", "a\\b", "a\0b", "a\nb", "x" * 300])
def test_a_name_stays_in_its_folder(tmp_path, name):
    with pytest.raises(InputError, match="cannot name a folder"):
        ownership.below(tmp_path, "runs", name)
    (tmp_path / "linked").symlink_to("/")
    with pytest.raises(InputError, match="symbolic link"):
        ownership.below(tmp_path, "linked")
    assert ownership.below(tmp_path, "runs", "npo_gdr+sure 2") == tmp_path / "runs" / "npo_gdr+sure 2"
