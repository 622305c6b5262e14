"""The audit at the end of a run: what it writes and says, when it is made again, and what `plan` says about it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import relearn
from people import people
from relearn.cli import run_command
from relearn.core.config import Recipe
from relearn.core.files import read_json
from relearn.core.run_dir import AUDIT_RESULTS, RunFolder
from relearn.data.validation import load_all
from relearn.report.labels import print_summary
from relearn.workflows import audit
from relearn.workflows.run.estimate import plan_lines
from tiny import save_tiny


@pytest.fixture(scope="module")
def values(tiny_model_dir, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("data")
    private, public = people(folder / "private.jsonl", "private", 3), people(folder / "public.jsonl", "public", 3)
    return {
        "model": {"name": str(tiny_model_dir)},
        "data": {"forget": private, "retain": public},
        "learn": {"data": [private, public], "epochs": 1, "lora": {"r": 2}},
        "unlearn": {"epochs": 1, "learning_rate": 1e-3, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 4},
        "metrics": {"bootstrap": 20},
    }


@pytest.fixture(scope="module")
def finished(values, tmp_path_factory) -> Path:
    return relearn.run(Recipe.from_mapping(values), tmp_path_factory.mktemp("run") / "run").path


def test_a_run_ends_with_the_quick_audit(finished, capsys):
    folder = RunFolder(finished)
    assert folder.is_done("audit") and read_json(finished / "audits/about.json")["strength"] == "quick"
    report = read_json(finished / "report.json")
    assert report["headline"]["holds"][0] == report["audits"]["finding"]
    print_summary(finished)
    shown = capsys.readouterr()
    assert report["audits"]["finding"][:40] in " ".join((shown.out + shown.err).split())
    assert "not attacked" not in shown.out + shown.err


def test_without_an_audit_the_run_says_that_it_was_not_attacked(values, tmp_path, finished):
    path = relearn.run(Recipe.from_mapping({**values, "audit": "none"}), tmp_path / "run").path
    assert not (path / "audits").exists() and "audit" not in RunFolder(path).manifest["stages"]
    assert read_json(path / "report.json")["headline"]["holds"][0].startswith("Not attacked yet")
    answers = (path / "after/forget.jsonl").read_bytes()
    relearn.run(Recipe.from_mapping(values), path, resume=True)
    assert read_json(path / "audits/about.json")["strength"] == "quick"
    assert (path / "after/forget.jsonl").read_bytes() == answers
    for name in AUDIT_RESULTS:
        assert (path / name).read_bytes() == (finished / name).read_bytes(), "the same as in one go"
    assert RunFolder(path).recipe.audit == "quick"


def test_a_stronger_audit_by_hand_stays_when_the_run_is_resumed(values, finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    assert run_command(["audit", str(copy), "--attacks", "plain,hints"]) == 0
    verdicts = (copy / "audits/verdicts.json").read_bytes()
    relearn.run(Recipe.from_mapping(values), copy, resume=True)
    assert read_json(copy / "audits/about.json")["strength"] == "chosen attacks"
    assert (copy / "audits/verdicts.json").read_bytes() == verdicts
    assert run_command(["evaluate", str(copy), "--set", "metrics.c1=0.4"]) == 0
    assert read_json(copy / "audits/about.json")["strength"] == "chosen attacks"
    assert read_json(copy / "summary.json")["audit"]["strength"] == "chosen attacks"


def test_scoring_again_attacks_nothing(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(copy / "audits")
    RunFolder(copy).drop_stages("audit")
    assert run_command(["evaluate", str(copy), "--set", "metrics.c1=0.4"]) == 0
    assert not (copy / "audits").exists() and "audit" not in read_json(copy / "summary.json")


def test_a_folder_from_before_this_key_is_resumed(values, finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    lines = (copy / "recipe.yaml").read_text().splitlines(keepends=True)
    (copy / "recipe.yaml").write_text("".join(line for line in lines if not line.startswith("audit:")))
    shutil.rmtree(copy / "audits")
    stages = RunFolder(copy).manifest["stages"]
    RunFolder(copy).update_manifest(stages={name: stages[name] for name in stages if name != "audit"})
    relearn.run(Recipe.from_mapping(values), copy, resume=True)
    assert (copy / "audits/verdicts.json").read_bytes() == (finished / "audits/verdicts.json").read_bytes()


def test_the_model_that_knows_the_facts_is_no_control(values, tmp_path):
    """Without a learn stage, adapter and base model, the recipe names no model from before the facts."""
    own = {
        **{key: value for key, value in values.items() if key != "learn"},
        "data": {"forget": values["data"]["forget"]},
    }
    path = relearn.run(Recipe.from_mapping(own), tmp_path / "run").path
    assert read_json(path / "audits/about.json")["control"] == "none was given"
    assert not list((path / "audits/answers").glob("*.control.jsonl"))


def test_a_large_forget_set_is_audited_in_part_and_the_strength_says_so(values, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "QUICK_FACTS", 2)
    copy = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(copy / "audits")
    relearn.run(Recipe.from_mapping(values), copy, resume=True)
    total = len(load_all(Recipe.from_mapping(values).data).forget)
    assert read_json(copy / "audits/worst.json")["strength"] == f"quick, 2 of {total} facts"
    assert len(read_json(copy / "audits/verdicts.json")) == 2


@pytest.mark.parametrize(("target", "says"), [("all-linear", "adapters on mlp."), (["q_proj"], "no adapter")])
def test_the_plan_says_whether_experts_are_trained(values, tmp_path, target, says):
    save_tiny(tmp_path / "moe", "Mixtral")
    own = {**values, "model": str(tmp_path / "moe"), "unlearn": {"lora": {"target": target}}}
    (line,) = [line for line in plan_lines(Recipe.from_mapping(own)) if line.startswith("Experts")]
    assert says in line


def test_the_plan_counts_the_prompts_of_the_audit(values, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("RELEARN_CACHE", str(tmp_path / "cache"))  # has no answers of the relearned control model
    recipe = Recipe.from_mapping(values)
    work = audit.estimate_audit(recipe, load_all(recipe.data))
    copy = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(copy / "audits")
    folder = RunFolder(copy)
    models = audit.ModelSet.of_run(folder.recipe, copy)
    job = audit._audit_of_run(folder, folder.recipe, models, audit.select_audits("", audit.QUICK), audit.QUICK)
    assert work == job.plan()
    assert f"Audit: strength quick, {work.line()}" in plan_lines(recipe)
    assert not any(line.startswith("Audit") for line in plan_lines(recipe.model_copy(update={"audit": "none"})))
