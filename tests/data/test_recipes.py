"""Every shipped recipe parses, and the one for own data runs on the rows that come with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from relearn.core.config import Recipe
from relearn.data.validation import load_all

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def test_the_recipes_are_there():
    assert {"knowundo-privacy.yaml", "own-data.yaml", "tofu-forget10.yaml"} <= {path.name for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_parses_and_survives_its_own_yaml(path, monkeypatch, tmp_path):
    monkeypatch.setenv("RELEARN_DATA", "/somewhere")
    recipe = Recipe.from_yaml(path)
    resolved = tmp_path / "recipe.yaml"
    resolved.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.from_yaml(resolved) == recipe
    assert recipe.name == path.stem


@pytest.mark.parametrize("name", ["knowundo-privacy", "tofu-forget10"])
def test_the_papers_settings_in_the_comments_can_be_set_as_they_stand(name, monkeypatch):
    monkeypatch.setenv("RELEARN_DATA", "/somewhere")
    path = ROOT / f"recipes/{name}.yaml"
    (line,) = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#   unlearn: {")]
    unlearn = Recipe.from_yaml(path, (line.removeprefix("#   ").replace(": ", "=", 1),)).unlearn
    assert (unlearn.learning_rate, unlearn.batch_size, unlearn.accumulation) == (1e-5, 1, 4)
    assert (unlearn.lora.r, unlearn.lora.alpha, unlearn.lora.dropout) == (8, 16, 0.1)


def test_own_data_loads_without_notes(monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = Recipe.from_yaml(ROOT / "recipes/own-data.yaml")
    loaded = load_all(recipe.data)
    assert {name: len(records) for name, records in loaded.sets()} == {
        "forget": 12,
        "retain": 12,
        "probes_forget": 12,
        "probes_retain": 12,
    }
    assert loaded.notes == ()
    assert all(record.subject and record.subject in record.question for _, rows in loaded.sets() for record in rows)


def test_benchmark_recipes_load_on_the_data(data_dir, monkeypatch):
    monkeypatch.setenv("RELEARN_DATA", str(data_dir))
    knowundo = load_all(Recipe.from_yaml(ROOT / "recipes/knowundo-privacy.yaml").data)
    assert (len(knowundo.forget), len(knowundo.retain), len(knowundo.probes_forget)) == (400, 441, 110)
    tofu = load_all(Recipe.from_yaml(ROOT / "recipes/tofu-forget10.yaml").data)
    assert (len(tofu.forget), len(tofu.retain), len(tofu.probes_retain)) == (400, 400, 217)
    assert len(knowundo.generic) == len(tofu.generic) == 1040
