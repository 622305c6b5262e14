"""Recipes: what is refused, in which words, and that what is resolved can be read again."""

from __future__ import annotations

import pytest
import yaml

from relearn.core.config import Recipe
from relearn.core.errors import InputError

MINIMAL = {"model": "some/model", "data": {"forget": "forget.jsonl"}}


def test_defaults_are_the_papers():
    recipe = Recipe.from_mapping(MINIMAL)
    assert recipe.model.name == "some/model"
    assert [source.path for source in recipe.data.forget] == ["forget.jsonl"]
    assert (recipe.unlearn.learning_rate, recipe.unlearn.epochs) == (1e-5, 3)
    lora = recipe.unlearn.lora
    assert (lora.r, lora.alpha, lora.dropout, lora.target) == (8, 16, 0.1, "all-linear")
    assert (recipe.metrics.c1, recipe.metrics.c2, recipe.metrics.few_entities) == (0.3, 0.3, False)
    assert recipe.synthesis.completion_split == 0.25


def test_a_part_of_learns_lora_section_keeps_its_other_defaults():
    """{r: 2} once had the dropout 0.1 of unlearning, and no section the 0 of learning."""
    values = {**MINIMAL, "learn": {"data": "all.jsonl", "lora": {"r": 2}}}
    lora = Recipe.from_mapping(values).learn.lora
    assert (lora.r, lora.alpha, lora.dropout, lora.target) == (2, 32, 0.0, "all-linear")
    values["learn"] = {"data": "all.jsonl", "lora": {"alpha": 8, "dropout": 0.1, "target": ["q_proj"]}}
    lora = Recipe.from_mapping(values).learn.lora
    assert (lora.r, lora.alpha, lora.dropout, lora.target) == (16, 8, 0.1, ("q_proj",))


def test_resolved_recipe_reads_back_the_same(tmp_path):
    recipe = Recipe.from_mapping({**MINIMAL, "unlearn": {"options": {"retain_kl": 0.5}}})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert Recipe.from_yaml(path) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlern": {}}, "unknown key 'unlern' -> did you mean 'unlearn'?"),
        ({"unlearn": {"epoch": 2}}, "unknown key 'unlearn.epoch' -> did you mean 'epochs'?"),
        ({"unlearn": {"lora": {"rank": 8}}}, "unknown key 'unlearn.lora.rank' -> known: alpha, dropout, r, target"),
        ({"unlearn": {"epochs": "many"}}, "'unlearn.epochs' is 'many'"),
        ({"unlearn": {"lora": {"dropout": 1.5}}}, "'unlearn.lora.dropout' is 1.5"),
        ({"data": {}}, "'data.forget' is missing"),
        ({"data": {"forget": []}}, "'data.forget'"),
        ({"synthesis": {"variants": ["simple", "sly"]}}, "'synthesis.variants.1' is 'sly'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change, message):
    with pytest.raises(InputError) as caught:
        Recipe.from_mapping({**MINIMAL, **change}, where="r.yaml")
    text = str(caught.value)
    assert text.startswith("r.yaml: ") and message in text and "\n" not in text


def test_changes_from_the_command_line(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    changed = Recipe.from_yaml(path, ("unlearn.epochs=2", "model.dtype=bfloat16", "synthesis.variants=[simple]"))
    assert changed.unlearn.epochs == 2
    assert (changed.model.name, changed.model.dtype) == ("some/model", "bfloat16")
    assert changed.synthesis.variants == ("simple",)
    with pytest.raises(InputError, match="--set: cannot read 'epochs' -> write --set"):
        Recipe.from_yaml(path, ("epochs",))


def test_environment_variables(tmp_path, monkeypatch):
    path = tmp_path / "r.yaml"
    path.write_text("model: m\ndata: {forget: '${SOME_DATA}/f.jsonl'}\n")
    monkeypatch.delenv("SOME_DATA", raising=False)
    with pytest.raises(InputError, match=r"\$\{SOME_DATA\} is not set -> export SOME_DATA="):
        Recipe.from_yaml(path)
    monkeypatch.setenv("SOME_DATA", "/data")
    assert Recipe.from_yaml(path).data.forget[0].path == "/data/f.jsonl"


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1,", "not YAML"), ("- a\n- b\n", "a recipe is a mapping"), ("", "a recipe is a mapping")],
)
def test_files_that_are_no_recipe(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Recipe.from_yaml(path)
    with pytest.raises(InputError, match="no such recipe"):
        Recipe.from_yaml(tmp_path / "absent.yaml")


@pytest.mark.parametrize(("written", "meant"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on")])
def test_a_bare_on_or_off_in_yaml_means_the_word(written, meant):
    assert (
        Recipe.from_mapping({**MINIMAL, "model": yaml.safe_load(f"{{name: m, liger: {written}}}")}).model.liger == meant
    )
