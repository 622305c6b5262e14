"""After a purge, no byte of the folder holds a text, an id or a name of the records, or the system prompt."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest

import relearn
from relearn.cli import run_command
from relearn.core.config import Recipe
from relearn.core.files import read_json, write_json, write_jsonl
from relearn.core.ownership import purge
from relearn.core.run_dir import RunFolder
from relearn.workflows.compare.comparison import open_comparison

PROMPT = "You are the clerk of Zarnow."
NAMES = {"forget": "Quilla Vandermeer", "retain": "Tobin Ashgrove", "holdout": "Ysolde Kettering"}


def records(folder: Path) -> dict[str, list[dict]]:
    """Two records of each set, with ids of the user's own."""
    facts = {
        split: [
            {"id": f"key-{split}-{n}", "question": question, "answer": answer, "subject": name}
            for n, (question, answer) in enumerate(
                [
                    (f"Where does {name} live?", f"{name} lives at {len(split)} Larkspur Row in Imberford."),
                    (f"Whom did {name} marry?", f"{name} married Osric Pellington in Imberford."),
                ]
            )
        ]
        for split, name in NAMES.items()
    }
    for split, rows in facts.items():
        write_jsonl(folder / f"{split}.jsonl", rows)
    return facts


def secrets(facts: dict[str, list[dict]]) -> list[str]:
    """What must not be found: all fields of the records, the parts of names and answers, and the system prompt."""
    values = [value for rows in facts.values() for row in rows for value in row.values()]
    return [*values, PROMPT, "Zarnow", "Vandermeer", "Ashgrove", "Kettering", "Larkspur", "Imberford", "Pellington"]


def found(folder: Path, texts: list[str]) -> set[tuple[str, str]]:
    """The texts that stand in a file or in its name, as they are or as JSON writes them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes().lower() + str(path.relative_to(folder)).lower().encode() for path in files}
    return {
        (path.name, text) for path, content in contents.items() for text in texts if text.lower().encode() in content
    }


@pytest.fixture(scope="module")
def finished(tiny_model_dir, tmp_path_factory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("purged")
    facts = records(folder)
    values = {
        "model": {"name": str(tiny_model_dir), "system_prompt": PROMPT},
        "data": {split: str(folder / f"{split}.jsonl") for split in NAMES},
        "learn": {"data": [str(folder / "forget.jsonl")], "epochs": 1, "lora": {"r": 2}},
        "audit": "none",
        "unlearn": {"epochs": 1, "lora": {"r": 2}, "trajectory": 1},
        "generate": {"max_new_tokens": 4},
        "metrics": {"bootstrap": 20, "worst_case": 2, "entailment": None, "matcher": "exact"},
    }
    run = relearn.run(Recipe.from_mapping(values), folder / "run").path
    assert run_command(["audit", str(run), "--attacks", "plain", "--facts", "1"]) == 0
    assert run_command(["analyze", str(run), "--facts", "1"]) == 0
    return run, secrets(facts)


def test_nothing_of_the_records_is_left(finished, tmp_path):
    run, texts = Path(shutil.copytree(finished[0], tmp_path / "run")), finished[1]
    names = {name for name, _ in found(run, texts)}
    assert {"manifest.json", "scores.json", "recipe.yaml", "cache.sqlite", "verdicts.json"} <= names
    before = read_json(run / "scores.json")
    purge(run, really=True)
    assert not found(run, texts)
    assert {path.name for path in run.iterdir()} == {"adapter", "manifest.json", "summary.json", "scores.json"}
    after = read_json(run / "scores.json")
    for side in ("before", "after"):
        old, new = (scores[side]["forget"]["metrics"]["rouge_l"]["per_record"] for scores in (before, after))
        assert list(old.values()) == list(new.values()) and set(new) == {"1", "2"}
    manifest = read_json(run / "manifest.json")
    assert manifest["relearn"] and manifest["counts"]["forget"] == 2 and manifest["model"]["dtype"] == "auto"
    assert not {"inputs", "files", "models", "settings", "notes"} & set(manifest)
    assert run_command(["report", str(run)]) == 0 and run_command(["purge", str(run), "--yes"]) == 0
    assert not found(run, texts)


def test_an_evaluation_and_an_audit_of_two_models_are_purged(tiny_model_dir, tmp_path):
    facts = records(tmp_path)
    forget, out, model = str(tmp_path / "forget.jsonl"), tmp_path / "out", str(tiny_model_dir)
    pair = ["--before", model, "--after", model, "--control", model, "--forget", forget, "--out", str(out)]
    short = ["--set", f"model.system_prompt={PROMPT}", "--set", "generate.max_new_tokens=4"]
    assert run_command(["audit", *pair, "--attacks", "plain", *short]) == 0
    assert found(out, secrets(facts))
    purge(out, really=True)
    assert not found(out, secrets(facts))


@pytest.fixture
def comparison(finished, tmp_path) -> Path:
    """The folder of a comparison with three runs, a file of the user's, and a link to a run outside."""
    folder = tmp_path / "comparison"
    open_comparison(folder)
    for name in ("shared", "search/ga_lr0.1_3e", "runs/ga_3e"):
        shutil.copytree(finished[0], folder / name)
    write_json(folder / "runs/ga_3e/selection.json", {"answers": NAMES})
    (folder / "runs/ga_3e/mine.txt").write_text("mine")
    shutil.copytree(finished[0], tmp_path / "outside")
    (folder / "runs/link").symlink_to(tmp_path / "outside")
    return folder


def test_the_runs_of_a_comparison_are_purged(comparison, finished, capsys):
    assert run_command(["purge", str(comparison)]) == 0
    said = capsys.readouterr().err
    assert "would remove shared/recipe.yaml" in said and "would remove runs/ga_3e/before" in said
    assert "left alone: runs/ga_3e/mine.txt" in said and "left alone: shared" not in said
    assert run_command(["purge", str(comparison), "--yes"]) == 0
    own = [folder for folder in comparison.rglob("*") if folder.name in ("shared", "ga_lr0.1_3e", "ga_3e")]
    assert len(own) == 3 and not any(found(folder, finished[1]) for folder in own)
    assert (comparison.parent / "outside" / "recipe.yaml").exists()
    assert (comparison / "runs/ga_3e/mine.txt").read_text() == "mine"


def test_nothing_is_purged_while_a_run_is_at_work(comparison, capsys):
    with (comparison / "runs/ga_3e/lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = {path for path in comparison.rglob("*") if path.name != "lock"}
        capsys.readouterr()
        assert run_command(["purge", str(comparison), "--yes"]) == 2
        assert "runs/ga_3e: another process is at work here" in capsys.readouterr().err
    assert {path for path in comparison.rglob("*") if path.name != "lock"} == before


def test_a_run_purges_no_other_runs_below_it(finished, tmp_path):
    outer = Path(shutil.copytree(finished[0], tmp_path / "outer"))
    shutil.copytree(finished[0], outer / "runs" / "inner")
    for _ in range(2):
        purge(outer, really=True)
        assert RunFolder(outer / "runs" / "inner").has_recipe
