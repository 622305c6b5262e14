"""What a process leaves that is killed, or a machine that stops, in the first moments of a run: it starts afresh."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.files import read_json
from relearn.core.run_dir import MARKER, RunFolder
from relearn.data.validation import DataSet
from relearn.workflows.run.inputs import begin_run, check_folder

RECIPE = Recipe.from_mapping({"model": "m", "data": {"forget": "f.jsonl"}})
FIRST = json.dumps({"stages": {}, **MARKER}, indent=2) + "\n"
LEFT = {
    "nothing": {},
    "the lock": {"lock": ""},
    "a temporary manifest": {"lock": "", ".manifest.json.abcdefgh.relearn-tmp": FIRST[:9]},
    "an empty manifest": {"lock": "", "manifest.json": ""},
    "half a manifest": {"lock": "", "manifest.json": FIRST[: len(FIRST) // 2]},
    "the manifest": {"manifest.json": FIRST},
    "a temporary recipe": {"manifest.json": FIRST, ".recipe.yaml.abcdefgh.relearn-tmp": "name"},
    "an empty recipe": {"manifest.json": FIRST, "recipe.yaml": ""},
    "half a recipe": {"manifest.json": FIRST, "recipe.yaml": RECIPE.to_yaml()[:100]},
    "the recipe": {"manifest.json": FIRST, "recipe.yaml": RECIPE.to_yaml()},
}


@pytest.mark.parametrize("state", LEFT)
def test_a_run_that_had_hardly_begun_begins_again(tmp_path, state):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for name, text in LEFT[state].items():
        (folder / name).write_text(text)
    check_folder(folder, RECIPE, resume=True)
    with ExitStack() as held:
        begin_run(folder, RECIPE, DataSet(forget=()), held)
    assert folder.recipe == RECIPE and read_json(folder / "manifest.json")["stages"] == {}
    assert {entry.name for entry in folder.path.iterdir()} == {"manifest.json", "recipe.yaml"}


@pytest.mark.parametrize(
    "files",
    [
        {"manifest.json": '{"name": "my app"'},
        {"manifest.json": FIRST[:30], "thesis.txt": "mine"},
        {"manifest.json": FIRST[:30], "recipe.yaml": "mine"},
        {"recipe.yaml": RECIPE.to_yaml()[:100]},
        {"recipe.yaml": ""},
    ],
)
def test_files_of_the_user_are_not_taken_for_such_a_run(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError):
        check_folder(RunFolder(tmp_path), RECIPE, resume=True)
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == files
