"""`relearn list benchmarks`: what it says of a benchmark's columns is what the reading of records does."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from relearn.cli import run_command
from relearn.core.config import Data, Metrics, Recipe
from relearn.data.columns import find_layout
from relearn.data.loaders import BENCHMARKS, Benchmark


@pytest.mark.parametrize("one", BENCHMARKS, ids=lambda one: one.name)
def test_its_columns_are_known_without_a_map(one: Benchmark):
    layout = find_layout(list(one.columns), {}, one.name)
    if len(one.columns) == 1:
        assert layout.text == one.columns[0]
    else:
        assert (layout.question, layout.answer) == one.columns[:2]
    read = {*layout.optional.values(), *layout.tags, layout.question, layout.answer, layout.text}
    assert set(one.columns) <= read, "a column is named that nothing reads"


@pytest.mark.parametrize("one", BENCHMARKS, ids=lambda one: one.name)
def test_its_recipe_is_there_or_its_key_is_one_of_recipes(one: Benchmark, project_root, monkeypatch, tmp_path):
    monkeypatch.setenv("RELEARN_DATA", str(tmp_path))
    if one.recipe.endswith(".yaml"):
        assert one.name in Recipe.from_yaml(project_root / one.recipe).data.forget[0].path
        return
    part, key, *_ = one.recipe.split(".")
    assert key in {"data": Data, "metrics": Metrics}[part].model_fields


def test_the_names_are_different():
    assert len({one.name for one in BENCHMARKS}) == len(BENCHMARKS)


def test_it_is_listed_as_a_table_and_as_json(capsys):
    assert run_command(["list", "benchmarks"]) == 0
    shown = capsys.readouterr().out
    assert all(one.name in shown for one in BENCHMARKS)
    assert run_command(["list", "benchmarks", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [one.name for one in BENCHMARKS]
    assert all(list(row) == [field.name for field in fields(Benchmark)] for row in rows)
