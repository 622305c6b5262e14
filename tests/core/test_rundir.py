"""Files in a run folder are whole or absent, private, and stages know what is done."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from relearn.core import run_dir
from relearn.core.errors import InputError
from relearn.core.run_dir import RunDir, append_jsonl, read_json, read_jsonl, replaced_dir, write_json, write_text


def test_files_are_private_and_whole(tmp_path):
    path = tmp_path / "run" / "summary.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["summary.json"]


def test_a_torn_last_line_is_left_out_and_never_swallows_the_next(tmp_path):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "text": "half')
    append_jsonl(path, {"n": 3})
    assert [row["n"] for row in read_jsonl(path, torn=True)] == [1, 3]
    with pytest.raises(InputError, match="not JSON lines"):
        read_jsonl(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_appears_only_when_complete(tmp_path):
    target = tmp_path / "adapter"
    with pytest.raises(RuntimeError), replaced_dir(target) as folder:
        write_text(folder / "a", "1")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    for text in ("first", "second"):
        with replaced_dir(target) as folder:
            (folder / "a").write_text(text)
    assert (target / "a").read_text() == "second"
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o600


def test_a_stage_is_done_only_with_its_outputs(tmp_path):
    run = RunDir(tmp_path)
    assert not run.is_done("scores")
    with pytest.raises(KeyboardInterrupt), run.stage("scores", ["summary.json"]):
        raise KeyboardInterrupt
    assert run.manifest["stages"]["scores"]["state"] == "running" and not run.is_done("scores")
    with pytest.raises(RuntimeError, match="ended without"), run.stage("scores", ["summary.json"]):
        pass
    with run.stage("scores", ["summary.json"]):
        write_json(run / "summary.json", {})
    assert run.is_done("scores")
    (run / "summary.json").unlink()
    assert not run.is_done("scores")


def test_leftovers_of_a_killed_process_are_cleared(tmp_path):
    (tmp_path / "before").mkdir()
    for name in ("before/.forget.jsonl.k3_x9abz", "before/.retain.jsonl.k3_x9abz.relearn-tmp"):
        (tmp_path / name).write_text("half")
    for name in (".adapter.y2cd45_7", ".adapter.y2cd45_7.relearn-tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    (tmp_path / "kept.json").write_text("{}")
    RunDir(tmp_path).clear_leftovers()
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["before", "kept.json"]


def test_hidden_files_of_the_user_are_no_leftovers(tmp_path):
    own = (".env", ".git/config", ".venv/bin/python", ".recipe.yaml.swp", ".thesis.txt.abcdefgh", "before/.notes")
    for name in own:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    RunDir(tmp_path).clear_leftovers()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(own)


def test_a_leftover_that_is_a_link_goes_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".adapter.y2cd45_7.relearn-tmp").symlink_to(tmp_path / "mine")
    RunDir(run).clear_leftovers()
    assert not list(run.iterdir()) and (tmp_path / "mine" / "thesis.txt").exists()


def test_half_written_files_have_a_name_of_their_own(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run_dir.os, "replace", lambda old, new: seen.append(Path(old).name))
    write_text(tmp_path / "summary.json", "{}")
    with replaced_dir(tmp_path / "adapter") as folder:
        seen.append(folder.name)
    assert [name.split(".")[1] for name in seen] == ["summary", "adapter", "adapter"]
    assert all(run_dir.is_leftover(name, ()) and name.endswith(".relearn-tmp") for name in seen)


def test_what_a_user_put_into_a_folder_that_is_replaced_stays(tmp_path):
    target = tmp_path / "adapter"
    for text in ("first", "second"):
        with replaced_dir(target) as folder:
            (folder / "adapter_config.json").write_text(text)
            if text == "first":
                (folder / "adapter_model-00001.safetensors").write_text(text)
        (target / "README.md").write_text("mine")
    assert (target / "README.md").read_text() == "mine" and (target / "adapter_config.json").read_text() == "second"
    assert not (target / "adapter_model-00001.safetensors").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("what", ["link", "dangling link", "file"])
def test_only_a_folder_is_replaced_by_one(tmp_path, what):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    target = tmp_path / "adapter"
    target.write_text("mine") if what == "file" else target.symlink_to(mine if what == "link" else tmp_path / "nowhere")
    with pytest.raises(InputError, match="adapter: is no folder that can be replaced"), replaced_dir(target) as folder:
        (folder / "thesis.txt").write_text("new")
    assert (mine / "thesis.txt").read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["adapter", "mine"]


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
    assert run_dir.is_ours(tmp_path) is expected


def test_a_folder_of_a_later_format_is_refused(tmp_path):
    write_json(tmp_path / "manifest.json", {"relearn": {"format": 2, "version": "9.0"}})
    with pytest.raises(InputError, match=r"made by relearn 9.0.* -> update relearn"):
        run_dir.is_ours(tmp_path)


def test_every_manifest_is_marked(tmp_path):
    write_json(tmp_path / "manifest.json", {"stages": {"before": {"state": "done"}}})
    RunDir(tmp_path).update_manifest(seed=1)
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest == {"stages": {"before": {"state": "done"}}, "seed": 1, **run_dir.MARKER}
    assert run_dir.MARKER["relearn"]["format"] == 1


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
        RunDir(tmp_path).update_manifest()
    assert run_dir.is_new(tmp_path) is expected


def test_a_lock_with_something_in_it_is_no_lock_of_ours(tmp_path):
    (tmp_path / "lock").write_text("packages: 12")
    assert (
        not run_dir.is_new(tmp_path) and not run_dir.is_new(tmp_path / "lock") and run_dir.is_new(tmp_path / "absent")
    )


def test_the_list_of_outputs_knows_what_stages_and_procedures_write():
    from relearn.unlearning.method import METHODS
    from relearn.unlearning.procedures import PROCEDURES
    from relearn.workflows.evaluate.evaluation_config import SETS
    from relearn.workflows.run.state import PARTS

    names = [name for name, _, _ in PARTS] + [*SETS, "wordings"]
    for name in (*(f"{when}/{name}.jsonl" for when in ("before", "after") for name in names), "start", "adapter"):
        assert run_dir.is_output(name), name
    for method in METHODS:
        made = PROCEDURES.get(METHODS.get(method).procedure).result
        assert made is None or run_dir.is_output(made), made
    for name in ("../evil", "/etc/passwd", "before/../../evil", "notes.txt", "before/mine.jsonl", ".git", "..", "."):
        assert not run_dir.is_output(name), name


def test_outputs_are_removed_and_nothing_else(tmp_path):
    ours = ("log.jsonl", "before/forget.jsonl", "checkpoints/unlearn/checkpoint-3/complete", "audits/answers/a.jsonl")
    own = ("notes.txt", ".env", "before/notes.txt", "log.jsonl.bak", "src/before/forget.jsonl", "analysis", "start")
    for name in (*ours, *own):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "summary.json").mkdir()
    assert {str(path.relative_to(tmp_path)) for path in run_dir.foreign_in(tmp_path)} == {
        "notes.txt",
        ".env",
        "before/notes.txt",
        "log.jsonl.bak",
        "src",
        "summary.json",
        "analysis",
        "start",
    }
    run_dir.remove_outputs(tmp_path, ("log.jsonl",))
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
            run_dir.refuse_overwrite([out], [None, "owner/name", given])
    run_dir.refuse_overwrite([Path("data/new.jsonl")], ["data/forget.jsonl", "data"])


@pytest.mark.parametrize("name", ["../../evil", "..", ".", "", ".git", "a/b", "a\\b", "a\0b", "a\nb", "x" * 300])
def test_a_name_stays_in_its_folder(tmp_path, name):
    with pytest.raises(InputError, match="cannot name a folder"):
        run_dir.below(tmp_path, "runs", name)
    (tmp_path / "linked").symlink_to("/")
    with pytest.raises(InputError, match="symbolic link"):
        run_dir.below(tmp_path, "linked")
    assert run_dir.below(tmp_path, "runs", "npo_gdr+sure 2") == tmp_path / "runs" / "npo_gdr+sure 2"
