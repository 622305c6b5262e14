"""Models are loaded when requested, once in a row, one at a time; copies for attacks are loaded anew."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path

import pytest

from relearn.core.config import Model, Recipe
from relearn.core.errors import InputError
from relearn.inference import run_models
from relearn.inference.run_models import ModelSet, dated


class Stub:
    """Stands for a loaded model."""


@pytest.fixture
def loads(monkeypatch) -> list[tuple[Model, tuple[Path, ...]]]:
    """The calls of `load`; fails when an earlier model is still in memory."""
    calls: list = []
    alive: list[weakref.ref] = []

    def load(spec, *, adapters=()):
        assert not any(model() for model in alive), "two models in memory"
        calls.append((spec, adapters))
        loaded = Stub()
        alive.append(weakref.ref(loaded))
        return loaded

    monkeypatch.setattr(run_models, "load", load)
    return calls


def recipe(**values) -> Recipe:
    return Recipe.from_mapping({"model": {"name": "own", "adapter": "user"}, "data": {"forget": "f.jsonl"}, **values})


def call(*requests) -> None:
    """Call each and drop what it returns."""
    for request in requests:
        request()


def test_a_run_loads_what_is_requested_and_keeps_the_last(loads, tmp_path):
    models = ModelSet.of_run(recipe(learn={"data": "f.jsonl"}, metrics={"base_model": "plain"}), tmp_path)
    assert loads == [] and models.roles == ["start", "after", "control"] and models.has_adapter
    call(models.start, models.start, models.base, models.original)
    specs = [(spec.name, spec.adapters, adapters) for spec, adapters in loads]
    assert specs == [("own", ("user",), (tmp_path / "start",)), ("plain", (), ()), ("own", ("user",), ())]
    models.release()
    call(models.original)
    assert len(loads) == 4


def test_without_a_control_the_base_model_is_one(loads, tmp_path):
    models = ModelSet.of_run(recipe(), tmp_path)
    assert models.control_name == "own before any fine-tuning"
    call(models.base, partial(models.get, "control"))
    assert len(loads) == 1 and loads[0][0].adapters == ()


def test_a_fresh_model_is_not_held_and_frees_the_one_in_memory(loads, tmp_path):
    models = ModelSet.of_run(recipe(unlearn={"full": True}), tmp_path)
    assert not models.has_adapter
    call(models.unlearned, partial(models.fresh, "after"), partial(models.fresh, "after"), models.unlearned)
    assert [spec.name for spec, _ in loads] == [str(tmp_path / "model")] * 4


def test_sides_of_an_evaluation_with_the_same_model_share_it(loads, tmp_path):
    one, other = Model(name="one"), Model(name="other")
    models = ModelSet.of_evaluation({"before": one, "after": one}, tmp_path, base=other)
    call(partial(models.get, "after"), partial(models.get, "before"))
    assert len(loads) == 1
    call(models.base, partial(models.get, "before"))
    assert [spec.name for spec, _ in loads] == ["one", "other", "one"]


def test_two_models_and_perhaps_a_control(loads, tmp_path):
    before, after = Model(name="before"), Model(name="after", adapter="a")
    models = ModelSet.of_pair(tmp_path, before=before, after=after)
    assert models.roles == ["start", "after"] and models.has_adapter and models.control_name == "none was given"
    models = ModelSet.of_pair(tmp_path, before=after, after=before, control=Model(name="third"))
    assert models.roles == ["start", "after", "control"] and not models.has_adapter and models.control_name == "third"
    call(partial(models.fresh, "start"))
    assert loads == [(dated(after, tmp_path), ())]


def test_every_model_of_a_run_gets_the_date_of_its_folder(loads, tmp_path):
    """A template with today's date must give the same prompt after midnight, and when a finished run is asked."""
    (tmp_path / "manifest.json").write_text('{"date": "2024-02-29"}')
    call(ModelSet.of_run(recipe(), tmp_path).start)
    own = recipe(model={"name": "own", "date": "2020-01-01"})
    call(ModelSet.of_run(own, tmp_path).start)
    # A folder of version 0.1 has no date: that of its first stage counts.
    (tmp_path / "manifest.json").write_text('{"stages": {"before": {"started": 1000000000}}}')
    call(ModelSet.of_run(recipe(), tmp_path).start)
    assert [str(spec.date) for spec, _ in loads] == ["2024-02-29", "2020-01-01", "2001-09-09"]


def test_a_control_is_checked_before_anything_is_loaded(loads, tmp_path):
    with pytest.raises(InputError, match="neither a run, an adapter nor a model"):
        ModelSet.of_run(recipe(), tmp_path, control=tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text("model: foreign\ndata: {forget: f.jsonl}\n")
    with pytest.raises(InputError, match="'foreign', which is not loaded without asking"):
        ModelSet.of_run(recipe(), tmp_path, control=tmp_path)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    models = ModelSet.of_run(recipe(), tmp_path, control=folder)
    assert loads == [] and models.control_name == "adapter"
    call(partial(models.fresh, "control"))
    assert [adapters for _, adapters in loads] == [(folder,)]
