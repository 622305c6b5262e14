"""A comparison of two methods and the ceiling with the tiny model: what it leaves, what it repeats, how it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from people import people
from relearn.cli import run_command
from relearn.core.config import Recipe
from relearn.core.errors import RunFailedError
from relearn.core.files import read_json, read_jsonl
from relearn.workflows.compare import comparison as comparison_run
from relearn.workflows.compare import method_runs
from relearn.workflows.compare.results import read_results, write_overview, write_result
from relearn.workflows.run import pipeline as pipeline_run
from relearn.workflows.run.train_stages import records_to_learn

METHODS = ("relearn_gdf", "grad_diff", "retain_only")
CLOCKED = {"manifest.json", "log.jsonl", "report.json", "report.html", "model_card.md", "cache.sqlite"}


def write_comparison(folder: Path, model: Path, methods: tuple[str, ...] = METHODS) -> Path:
    private, public = people(folder / "private.jsonl", "private", 4), people(folder / "public.jsonl", "public", 4)
    base = {
        "model": str(model),
        "data": {
            "forget": "${COMPARED}/private.jsonl",
            "retain": public,
            "probes": {"forget": people(folder / "probe.jsonl", "probe", 4)},
        },
        "learn": {"data": [private, public], "epochs": 8, "learning_rate": 5e-3, "lora": {"r": 4}},
        "unlearn": {"batch_size": 4, "checkpoint_every": 3, "lora": {"r": 2, "dropout": 0.1}},
        "generate": {"max_new_tokens": 8},
        "metrics": {"bootstrap": 20, "matcher": "exact"},
    }
    values = {
        "name": "tiny",
        "base": base,
        "methods": list(methods),
        "grid": {"learning_rate": [1e-3, 5e-3]},
        "budget": {"tokens": 1600, "search": 0.25},
        "select": {"forget": 3, "retain": 2},
    }
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def compare(path: Path, folder: Path, *more: str) -> int:
    return run_command(
        ["compare", str(path), "--out", str(folder / "out"), "--results", str(folder / "results"), *more]
    )


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in CLOCKED)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    """A finished comparison."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPARED", str(folder))
        assert compare(write_comparison(folder, tiny_model_dir), folder) == 0
        yield folder


def test_a_result_for_every_method_with_the_shape_of_the_summary(folder):
    results = read_results(folder / "results" / "tiny", METHODS)
    assert [value["method"] for value in results] == list(METHODS)
    for value in results:
        assert (value["benchmark"], value["model"]) == ("tiny", value["recipe"]["model"]["name"])
        for side in (value, value["before"]):
            assert {"value", "low", "high", "n", "unscored"} <= set(side["forget"]["kfr"])
            assert {"kfr", "ls", "rouge_l"} <= set(side["forget_heldout"])
            assert side["retain"]["krr"]["n"] + side["retain"]["krr"]["unscored"] == 4
        assert value["tokens"] > 0 and value["steps"] > 0 and value["versions"]["relearn"]
    assert all(value["before"] == results[0]["before"] for value in results)


def test_recipes_of_results_are_portable_and_run(folder, tmp_path):
    value = read_json(folder / "results" / "tiny" / "grad_diff.json")
    assert value["recipe"]["data"]["forget"][0]["path"] == "${COMPARED}/private.jsonl"
    assert value["recipe"]["unlearn"]["token_budget"] == 1600
    assert value["recipe"]["unlearn"]["learning_rate"] == value["chosen"]["learning_rate"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(value["recipe"]))
    assert run_command(["run", str(recipe), "--out", str(tmp_path / "run")]) == 0
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["after"] == {part: value[part] for part in summary["after"]}
    assert summary["before"] == value["before"]


def test_each_value_of_the_grid_has_a_share_of_the_budget(folder):
    value = read_json(folder / "results" / "tiny" / "relearn_gdf.json")
    grid = value["chosen"]["grid"]
    assert [entry["learning_rate"] for entry in grid] == [1e-3, 5e-3]
    assert value["chosen"]["learning_rate"] in (1e-3, 5e-3)
    short, full = folder / "out/search/relearn_gdf_lr0.001_400t", next((folder / "out/runs").glob("relearn_gdf*"))
    tokens = [sum(row["tokens"] for row in read_jsonl(run / "log.jsonl")) for run in (short, full)]
    assert 400 <= tokens[0] < 1200 and 1600 <= tokens[1] < 2400 and value["tokens"] == tokens[1]


def test_learning_rates_are_chosen_on_training_questions_alone(folder):
    trained = {row["question"] for name in ("private", "public") for row in read_jsonl(folder / f"{name}.jsonl")}
    kept = read_json(folder / "out/search/grad_diff_lr0.001_400t/selection.json")
    asked = [row["question"] for rows in kept["answers"].values() for row in rows]
    assert len(asked) == 5 and set(asked) <= trained
    probes = {row["question"] for row in read_jsonl(folder / "probe.jsonl")}
    assert not probes & trained


def test_the_start_model_is_learned_and_asked_once(folder):
    shared = folder / "out/shared"
    for run in [*(folder / "out/runs").iterdir(), *(folder / "out/search").iterdir()]:
        if run.name == "retain_only_learn":
            continue
        for name in ("before/forget.jsonl", "before/probes_forget.jsonl"):
            assert (run / name).read_bytes() == (shared / name).read_bytes()
        stages = {row["stage"] for row in read_jsonl(run / "log.jsonl")} if (run / "log.jsonl").exists() else set()
        assert "learn" not in stages


def test_retain_only_never_saw_the_rows_to_forget(folder):
    recipe = Recipe.from_yaml(folder / "out/runs/retain_only_learn/recipe.yaml")
    assert recipe.learn is not None
    assert {record.question for record in records_to_learn(recipe.learn)} == {
        row["question"] for row in read_jsonl(folder / "public.jsonl")
    }
    value = read_json(folder / "results/tiny/retain_only.json")
    assert value["chosen"]["learning_rate"] == 5e-3 and value["steps"] > 0
    assert (folder / "out/runs/retain_only/adapter/adapter_model.safetensors").read_bytes() == (
        folder / "out/runs/retain_only_learn/start/adapter_model.safetensors"
    ).read_bytes()


def test_table_plane_and_samples(folder):
    results = folder / "results/tiny"
    table = (results / "table.md").read_text()
    rows = [line.split(" | ")[0].strip("| ") for line in table.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row in ("start model", "retain_only (ceiling)", *METHODS)][:4] == [
        "start model",
        "relearn_gdf",
        "grad_diff",
        "retain_only (ceiling)",
    ]
    assert "[" in table and "LS ÷ start" in table
    samples = read_jsonl(results / "samples.jsonl")
    assert len(samples) == 8 and all(list(row["after"]) == list(METHODS) for row in samples)
    text = (results / "samples.md").read_text()
    assert "Mill Lane" in text and text.count("**before**") == 8
    assert (results / "plane.svg").read_text().startswith("<svg xmlns=")


def test_every_method_is_set_against_the_first_on_the_same_questions(folder):
    results = folder / "results/tiny"
    rows = {row["method"]: row for row in read_jsonl(results / "differences.jsonl")}
    assert set(rows) == {"grad_diff", "retain_only"}
    assert {row["against"] for row in rows.values()} == {"relearn_gdf"}
    found = rows["grad_diff"]["parts"]["forget"]["rouge_l"]
    first, other = (read_json(results / f"{method}.json")["forget"]["rouge_l"] for method in METHODS[:2])
    assert found["n"] == first["n"] and found["unpaired"] == 0
    assert found["value"] == pytest.approx(other["value"] - first["value"])
    table = (results / "table.md").read_text()
    assert table.count("Less relearn_gdf, on the same questions") == 2
    shown = f"{found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}], p = "
    assert [line for line in table.splitlines() if line.startswith("| grad_diff |") and shown in line]


def test_the_same_command_again_touches_nothing(folder):
    def times():
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    known = times()
    assert compare(folder / "compare.yaml", folder) == 0
    assert times() == known


def test_methods_may_be_run_one_at_a_time_and_table_keeps_all(folder):
    known = contents(folder / "results")
    assert compare(folder / "compare.yaml", folder, "--methods", "grad_diff") == 0
    found = contents(folder / "results")
    assert set(found) == set(known)
    assert "relearn_gdf" in found["tiny/table.md"].decode() and "relearn_gdf" in found["tiny/samples.md"].decode()
    assert compare(folder / "compare.yaml", folder) == 0
    assert contents(folder / "results") == known


def test_stopped_anywhere_it_goes_on_and_ends_the_same(folder, tmp_path, monkeypatch, capsys):
    """Interrupted before every stage in turn, in every run, as a kill leaves it."""
    monkeypatch.setenv("COMPARED", str(folder))
    done = method_runs.run_stage
    stopped: set[tuple[str, str]] = set()

    def stop_once(context, name):
        key = (context.folder.path.name, name)
        if key not in stopped and not context.folder.is_done(name):
            stopped.add(key)
            raise KeyboardInterrupt
        done(context, name)

    for module in (method_runs, pipeline_run):
        monkeypatch.setattr(module, "run_stage", stop_once)
    codes = []
    while not codes or codes[-1] == 130:
        codes.append(compare(folder / "compare.yaml", tmp_path, "--methods", "grad_diff,retain_only"))
    assert codes[-1] == 0 and len(codes) > 8
    assert "the same command continues" in capsys.readouterr().err
    expected, found = contents(folder / "out"), contents(tmp_path / "out")
    assert found and [name for name in found if found[name] != expected[name]] == []
    for method in ("grad_diff", "retain_only"):
        first, second = (read_json(place / f"results/tiny/{method}.json") for place in (folder, tmp_path))
        assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_one_failing_method_does_not_stop_the_others(folder, monkeypatch, tmp_path):
    did = comparison_run.ComparisonJob.run

    def fail(self, method, results):
        if method == "relearn_gdf":
            raise RunFailedError("loss is nan")
        return did(self, method, results)

    monkeypatch.setattr(comparison_run.ComparisonJob, "run", fail)
    done = run_command(
        ["compare", str(folder / "compare.yaml"), "--out", str(folder / "out"), "--results", str(tmp_path)]
    )
    assert done == 1
    assert {path.stem for path in (tmp_path / "tiny").glob("*.json")} == {"grad_diff", "retain_only"}


def test_a_learning_rate_that_fails_is_not_chosen(folder, monkeypatch, tmp_path):
    run_until = comparison_run.run_until

    def fail(run_plan, place, until="report"):
        if "lr0.005" in run_plan.name:
            raise RunFailedError("loss is nan at step 3")
        return run_until(run_plan, place, until)

    monkeypatch.setattr(comparison_run, "run_until", fail)
    command = ["compare", str(folder / "compare.yaml"), "--methods", "grad_diff", "--results", str(tmp_path)]
    assert run_command([*command, "--out", str(folder / "out")]) == 0
    chosen = json.loads((tmp_path / "tiny/grad_diff.json").read_text())["chosen"]
    assert chosen["learning_rate"] == 1e-3 and "nan" in chosen["grid"][1]["failed"]
    assert "0.005: failed" in (tmp_path / "tiny/table.md").read_text()


def test_checkpoints_of_several_trainings_are_one_picture(project_root, tmp_path):
    path = [{"step": step, "score": 0.5, "kfr": step / 20, "krr": 0.9} for step in (0, 10, 20)]
    for method in ("relearn", "npo_gdr", "grad_diff"):
        value = read_json(project_root / "results" / "knowundo12" / f"{method}.json")
        write_result(tmp_path, value | ({} if method == "grad_diff" else {"checkpoints": path}))
    write_overview(tmp_path, ["relearn"], {})
    picture = (tmp_path / "checkpoints.svg").read_text()
    assert "relearn" in picture and "npo_gdr" in picture and "grad_diff" not in picture
