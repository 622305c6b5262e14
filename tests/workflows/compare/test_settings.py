"""Comparison files: what they may say, and the recipes that come of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from people import people
from relearn.cli import run_command
from relearn.core.errors import InputError
from relearn.data.validation import load_all
from relearn.workflows.compare.comparison import ComparisonJob, selection_score
from relearn.workflows.compare.comparison_config import (
    Comparison,
    plan_retain_only,
    plan_run,
    plan_shared_run,
    read_grid,
)
from relearn.workflows.run.train_stages import records_to_learn

BASE = {"model": "m", "data": {"forget": "f.jsonl", "retain": "r.jsonl"}, "unlearn": {"batch_size": 2, "epochs": 4}}


def comparison(**values) -> Comparison:
    return Comparison.model_validate({"name": "c", "base": BASE, **values})


def written(path: Path, values: dict) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_method_and_mask_make_the_recipe():
    plan = plan_run(comparison(methods=["grad_diff+sure"]), "grad_diff+sure", 5e-4)
    unlearn = plan.recipe.unlearn
    assert (unlearn.method, unlearn.mask and unlearn.mask.name, unlearn.learning_rate) == ("grad_diff", "sure", 5e-4)
    assert (unlearn.batch_size, unlearn.epochs) == (2, 4)
    assert plan.name == "grad_diff+sure_lr0.0005_4e"


def test_a_share_of_the_budget_in_tokens_or_epochs():
    bare = comparison(methods=["relearn"])
    assert plan_run(bare, "relearn", None, 0.25).recipe.unlearn.epochs == 1
    tokens = comparison(methods=["relearn"], budget={"tokens": 150_000})
    short = plan_run(tokens, "relearn", 1e-4, tokens.budget.search)
    assert short.recipe.unlearn.token_budget == 37_500 and short.name == "relearn_lr0.0001_37500t"


def test_an_entry_may_rename_a_method_and_change_its_synthesis():
    made = comparison(methods={"own": {"unlearn": {"method": "relearn"}, "synthesis": {"generic_ratio": 0}}})
    assert plan_run(made, "own", None).recipe.unlearn.method == "relearn"
    own = plan_shared_run(made, "own")
    assert own.name == "shared-own" and own.recipe.synthesis.generic_ratio == 0
    assert plan_shared_run(made).recipe.synthesis.generic_ratio == 1


def test_no_setting_of_unlearning_makes_the_shared_run_another():
    one, other = (
        comparison(base={**BASE, "unlearn": {"learning_rate": rate, "batch_size": size}})
        for rate, size in ((1e-3, 2), (1e-4, 8))
    )
    assert plan_shared_run(one).recipe == plan_shared_run(other).recipe


def test_variables_stay_in_what_is_committed(monkeypatch):
    monkeypatch.setenv("PLACE", "/somewhere")
    base = {**BASE, "data": {"forget": "${PLACE}/f.jsonl", "retain": "r.jsonl"}}
    plan = plan_run(comparison(base=base, methods=["relearn"]), "relearn", None)
    assert plan.recipe.data.forget[0].path == "/somewhere/f.jsonl"
    assert plan.portable["data"]["forget"][0]["path"] == "${PLACE}/f.jsonl"


def test_base_from_a_file_with_changes_and_a_plain_recipe(tmp_path):
    recipe = written(tmp_path / "recipe.yaml", {"name": "plain", **BASE})
    (tmp_path / "sub").mkdir()
    path = written(
        tmp_path / "sub/c.yaml",
        {"name": "c", "base": "../recipe.yaml", "changes": {"unlearn": {"epochs": 1}}, "methods": ["relearn"]},
    )
    made = Comparison.from_yaml(path, ("base.unlearn.batch_size=6", "budget.tokens=500"))
    unlearn = plan_run(made, "relearn", None).recipe.unlearn
    assert (unlearn.epochs, unlearn.batch_size, unlearn.token_budget) == (1, 6, 500)
    plain = Comparison.from_yaml(recipe)
    assert plain.name == "plain"
    assert list(plain.choose(("npo", "ga"), (1e-4,)).methods) == ["npo", "ga"]
    with pytest.raises(InputError, match="no method is named"):
        plain.choose((), None)


def test_the_command_line_replaces_methods_and_grid():
    made = comparison(methods={"a": {"learning_rate": [1.0]}, "b": {}}, grid={"learning_rate": [0.5]})
    assert (made.learning_rates("a"), made.learning_rates("b")) == ((1.0,), (0.5,))
    chosen = made.choose(("a",), read_grid(("lr=1e-4,5e-4",)))
    assert list(chosen.methods) == ["a"] and chosen.learning_rates("a") == (1e-4, 5e-4)


@pytest.mark.parametrize("text", ["lr", "lr=", "lr=x", "epochs=1", "lr=-1"])
def test_a_grid_that_cannot_be_read(text):
    with pytest.raises(InputError, match="--grid lr=1e-4"):
        read_grid((text,))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"metods": []}, "unknown key 'metods'"),
        ({"budget": {"tokns": 1}}, "did you mean 'tokens'"),
        ({"base": {"model": "m"}}, "'data' is missing"),
    ],
)
def test_mistakes_are_named(tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        Comparison.from_yaml(written(tmp_path / "c.yaml", {"name": "c", "base": BASE, **change}))


def test_retain_only_needs_to_know_how_to_learn():
    with pytest.raises(InputError, match="leave retain_only out"):
        plan_retain_only(comparison(methods=["retain_only"]))


def test_value_of_a_learning_rate():
    """Harmonic mean of .8 and .4 is .5333; half the fluency halves it, more than before does not count."""
    assert selection_score(0.8, 0.4, 1.0) == pytest.approx(0.64 / 1.2)
    assert selection_score(0.8, 0.4, 0.5) == pytest.approx(0.32 / 1.2)
    assert selection_score(0.8, 0.4, 1.7) == pytest.approx(0.64 / 1.2)
    assert selection_score(1.0, 0.0, 1.0) == selection_score(1.0, None, 1.0) == selection_score(1.0, 1.0, None) == 0.0


@pytest.mark.parametrize(
    "name, sizes, learned, without",
    [("knowundo12/compare", (90, 102, 24, 24), 240, 126), ("tofu01/compare", (40, 400, 40, 100), 440, 400)],
)
def test_the_experiments_have_the_rows_they_say(project_root, data_dir, monkeypatch, name, sizes, learned, without):
    monkeypatch.setenv("RELEARN_DATA", str(data_dir))
    made = Comparison.from_yaml(project_root / "experiments" / f"{name}.yaml")
    data = load_all(plan_shared_run(made).recipe.data)
    assert (len(data.forget), len(data.retain), len(data.probes_forget), len(data.probes_retain)) == sizes
    full, ceiling = plan_shared_run(made).recipe.learn, plan_retain_only(made).recipe.learn
    assert full is not None and ceiling is not None
    assert (len(records_to_learn(full)), len(records_to_learn(ceiling))) == (learned, without)
    assert not {r.question for r in records_to_learn(ceiling)} & {
        r.question for r in (*data.forget, *data.probes_forget)
    }


@pytest.mark.parametrize("name", ["adaptability/damaged", "adaptability/six_persons"])
def test_the_adaptability_experiments_are_readable(project_root, monkeypatch, name):
    for variable in ("RELEARN_DATA", "DAMAGED", "SHARED"):
        monkeypatch.setenv(variable, "x")
    made = Comparison.from_yaml(project_root / "experiments" / f"{name}.yaml")
    recipe = plan_shared_run(made).recipe
    assert recipe.learn is None and recipe.model.adapters[0] == "x/start"


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (["relearn", "grad_diff+sur"], "grad_diff+sur: unknown mask 'sur' -> did you mean 'sure'?"),
        (["relearn", "grad_dif"], "grad_dif: unknown method 'grad_dif'"),
        ({"relearn": {}, "npo": {"unlearn": {"options": {"betta": 1}}}}, "npo: "),
        ({"relearn": {}, "npo": {"unlearn": {"epochs": "many"}}}, "'unlearn.epochs' is 'many'"),
        ({"relearn": {}, "npo": {"unlearn": {"epoch": 1}}}, "unknown key 'unlearn.epoch'"),
        ({"relearn": {}, "own": {"unlearn": {"method": "relearn"}, "synthesis": {"generator": "x"}}}, "own: "),
    ],
)
def test_the_recipes_of_all_methods_are_checked_before_the_first_training(
    tmp_path, tiny_model_dir, monkeypatch, capsys, methods, expected
):
    monkeypatch.setattr(ComparisonJob, "run", lambda *given: pytest.fail("trained"))
    data = {"forget": people(tmp_path / "f.jsonl", "private", 2), "retain": people(tmp_path / "r.jsonl", "public", 2)}
    base = {"model": str(tiny_model_dir), "data": data}
    path = written(tmp_path / "c.yaml", {"name": "c", "base": base, "methods": methods})
    out = tmp_path / "out"
    assert run_command(["compare", str(path), "--out", str(out), "--results", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    assert expected in said and len(said.splitlines()) == 1
    assert not out.exists() and not (tmp_path / "results").exists()


@pytest.mark.parametrize("base", [5, ["x"], None, {}])
def test_a_base_that_is_no_recipe(tmp_path, base):
    values = {"name": "c", "base": base, "changes": {"seed": 1}, "methods": ["relearn"]}
    with pytest.raises(InputError):
        Comparison.from_yaml(written(tmp_path / "c.yaml", values))
