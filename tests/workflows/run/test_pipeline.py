"""Whole runs with a tiny model: the ways a recipe can go, and what can be done with a finished run."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest
from safetensors.torch import load_file

import relearn
from people import people
from relearn.cli import run_command
from relearn.core.errors import InputError
from relearn.core.files import read_json, read_jsonl
from relearn.workflows.run import pipeline


@pytest.fixture
def values(tiny_model_dir, tmp_path) -> dict:
    return {
        "model": {"name": str(tiny_model_dir)},
        "data": {"forget": people(tmp_path / "private.jsonl", "private", 3)},
        "audit": "none",
        "unlearn": {"epochs": 1, "learning_rate": 1e-3, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 6},
        "metrics": {"bootstrap": 20},
    }


def run(values: dict, out: Path) -> Path:
    return relearn.run(relearn.Recipe.from_mapping(values), out).path


@pytest.fixture(scope="module")
def finished(tiny_model_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    private, public = people(folder / "private.jsonl", "private", 3), people(folder / "public.jsonl", "public", 3)
    values = {
        "model": {"name": str(tiny_model_dir)},
        "data": {"forget": private, "retain": public, "probes": {"forget": people(folder / "probe.jsonl", "probe", 3)}},
        "learn": {"data": [private, public], "epochs": 2, "lora": {"r": 2}},
        "audit": "none",
        "unlearn": {"epochs": 1, "learning_rate": 1e-3, "evaluate_every": 6, "keep_best": True, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 6},
        "metrics": {"bootstrap": 20},
    }
    return run(values, folder / "run")


def test_the_run_folder_is_as_documented_and_private(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    expected = {
        "recipe.yaml",
        "manifest.json",
        "log.jsonl",
        "cache.sqlite",
        "synthesis.jsonl",
        "rejected.jsonl",
        "summary.json",
        "scores.json",
        "report.json",
        "report.html",
        "model_card.md",
        *(f"{when}/{name}.jsonl" for when in ("before", "after") for name in ("forget", "retain", "probes_forget")),
        *(f"{part}/adapter_{file}" for part in ("start", "adapter") for file in ("config.json", "model.safetensors")),
    }
    assert names == expected
    assert {stat.S_IMODE(path.stat().st_mode) for path in finished.rglob("*") if path.is_file()} == {0o600}


def test_summary_has_the_documented_shape(finished):
    summary = read_json(finished / "summary.json")
    assert set(summary) == {"before", "after", "difference"}
    changed = summary["difference"]["forget"]["rouge_l"]
    assert {"value", "low", "high", "n", "unpaired", "wins", "losses", "ties", "p"} <= set(changed)
    assert changed["value"] == pytest.approx(
        summary["after"]["forget"]["rouge_l"]["value"] - summary["before"]["forget"]["rouge_l"]["value"]
    )
    for parts in (summary["before"], summary["after"]):
        assert set(parts) == {"forget", "retain", "forget_heldout"}
        for part, rate in (("forget", "kfr"), ("forget_heldout", "kfr"), ("retain", "krr")):
            for name in (rate, "rouge_l", "ls", "ls_paper", "ppl"):
                assert {"value", "low", "high", "n", "unscored"} <= set(parts[part][name])
                assert parts[part][name]["n"] + parts[part][name]["unscored"] == 3


def test_no_original_answer_is_trained_on(finished):
    """Trap 1."""
    answers = [row["reference"] for row in read_jsonl(finished / "before" / "forget.jsonl")]
    rows = read_jsonl(finished / "synthesis.jsonl")
    assert rows and not [row for row in rows for answer in answers if answer in row["prompt"] + " " + row["target"]]


def test_answers_have_what_metrics_need(finished):
    for row in read_jsonl(finished / "after" / "forget.jsonl"):
        assert len(row["reference_logprobs"]) > 5 and max(row["reference_logprobs"]) <= 0
        assert row["response_logprobs"] == [] or max(row["response_logprobs"]) <= 0


def test_evaluation_while_training_is_logged(finished):
    scores = [row for row in read_jsonl(finished / "log.jsonl") if row.get("kind") == "evaluation"]
    assert len(scores) >= 3 and scores[0]["step"] == 0
    assert all(0 <= row[name] <= 1 for row in scores for name in ("score", "kfr", "krr"))
    assert "The training in the KFR-KRR plane" in (finished / "report.html").read_text()


def test_ask_generate_report_and_evaluate(finished, tmp_path, capsys):
    assert run_command(["ask", str(finished), "Where does Ada Holm live?"]) == 0
    assert "Where does Ada" in capsys.readouterr().out
    questions = people(tmp_path / "q.jsonl", "probe", 2)
    out = tmp_path / "answers.jsonl"
    assert run_command(["generate", str(finished), "--questions", questions, "--out", str(out)]) == 0
    assert [set(row) for row in read_jsonl(out)] == [{"question", "before", "after"}] * 2
    before = (finished / "summary.json").read_bytes()
    assert run_command(["evaluate", str(finished)]) == 0
    assert (finished / "summary.json").read_bytes() == before
    assert run_command(["report", str(finished), "--redact"]) == 0
    assert "Mill Lane" not in (finished / "report.html").read_text()
    assert run_command(["report", str(finished)]) == 0
    assert "Mill Lane" in (finished / "report.html").read_text()


def test_before_is_the_start_model_and_export_is_the_unlearned_one(finished, tmp_path):
    asked = relearn.ask(finished, ["Where does Ada Holm live?"])[0]
    assert asked["before"] == read_jsonl(finished / "before" / "forget.jsonl")[0]["response"]
    assert asked["after"] == read_jsonl(finished / "after" / "forget.jsonl")[0]["response"]
    relearn.export(finished, tmp_path / "merged")
    assert "model.embed_tokens.weight" in load_file(tmp_path / "merged" / "model.safetensors")
    with pytest.raises(InputError, match="is there already"):
        relearn.export(finished, tmp_path / "merged")
    assert run_command(["export", str(finished), "--merged", "--out", str(tmp_path / "same")]) == 0
    assert (tmp_path / "same/model.safetensors").read_bytes() == (tmp_path / "merged/model.safetensors").read_bytes()


def test_without_a_retain_set_the_model_itself_is_asked(values, tmp_path):
    folder = run(values, tmp_path / "run")
    neighbours = read_jsonl(folder / "neighbours.jsonl")
    manifest = read_json(folder / "manifest.json")
    assert any(f"{len(neighbours)} answers of the start model" in note for note in manifest["notes"])
    assert "no retain set was given" in (folder / "report.html").read_text()


def test_full_fine_tuning(values, tmp_path):
    values["data"]["retain"] = people(tmp_path / "public.jsonl", "public", 3)
    values["unlearn"]["full"] = True
    folder = run(values, tmp_path / "run")
    assert (folder / "model" / "model.safetensors").exists() and not (folder / "adapter").exists()
    assert relearn.ask(folder, ["Where does Ada Holm live?"])[0]["after"] is not None


def test_documents(values, tmp_path):
    text = " ".join(f"The lamp of house {n} burned all night and nobody knew why." for n in range(20))
    path = tmp_path / "licensed.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n")
    values["data"] = {
        "forget": {"path": str(path), "chunk_words": 40},
        "retain": people(tmp_path / "r.jsonl", "public", 2),
    }
    folder = run(values, tmp_path / "run")
    kinds = {row["kind"] for row in read_jsonl(folder / "synthesis.jsonl") if row["record_id"]}
    assert kinds == {"completion"}
    assert len(read_jsonl(folder / "after" / "forget.jsonl")) == len(read_jsonl(folder / "before" / "forget.jsonl")) > 3


def test_purge_leaves_the_adapter_and_numbers_without_texts(values, tmp_path, capsys):
    values["data"]["retain"] = people(tmp_path / "public.jsonl", "public", 3)
    folder = run(values, tmp_path / "run")
    assert run_command(["purge", str(folder)]) == 0
    assert (folder / "synthesis.jsonl").exists()
    assert run_command(["purge", str(folder), "--yes"]) == 0
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.parent.name for path in left} == {"run", "adapter"}
    for path in left:
        assert b"Mill Lane" not in path.read_bytes() and b"Torvik" not in path.read_bytes(), path
    assert read_json(folder / "summary.json")["after"]["forget"]["kfr"]["n"] == 3


def test_changed_data_and_stale_stages_on_resume(values, tmp_path):
    values["data"]["retain"] = people(tmp_path / "public.jsonl", "public", 3)
    recipe = relearn.Recipe.from_mapping(values)
    folder = relearn.run(recipe, tmp_path / "run").path
    kept = (folder / "after" / "forget.jsonl").read_bytes()
    shutil.rmtree(folder / "adapter")
    (folder / "after" / "forget.jsonl").write_text("stale\n")
    relearn.run(recipe, folder, resume=True)
    assert (folder / "after" / "forget.jsonl").read_bytes() == kept
    people(tmp_path / "public.jsonl", "public", 2)
    with pytest.raises(InputError, match=r"public.jsonl: has changed since this run began"):
        relearn.run(recipe, folder, resume=True)


def test_a_second_process_is_refused(values, tmp_path):
    import fcntl

    folder = tmp_path / "run"
    folder.mkdir()
    recipe = relearn.Recipe.from_mapping(values)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is at work here"):
            relearn.run(recipe, folder, resume=True)


def test_plan_of_a_remote_generator_says_what_would_be_sent(values, tmp_path, capsys, monkeypatch):
    import yaml

    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.example.com/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")
    values["synthesis"] = {"generator": "openai:big-model"}
    values["prices"] = {"input_per_million": 1000.0, "output_per_million": 1000.0}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    assert run_command(["plan", str(path)]) == 0
    said = capsys.readouterr().out
    assert "of 3 private records, to api.example.com" in said and "allow_remote" in said
    assert "Memory: about" in said and "row passes" in said and "USD" in said and "sk-secret" not in said
    assert run_command(["run", str(path), "--dry-run", "--out", str(tmp_path / "none")]) == 0
    assert not (tmp_path / "none").exists()


def test_the_start_model_writes_its_own_new_answers_and_the_manifest_counts_them(values, tmp_path):
    recipe = relearn.Recipe.from_mapping({**values, "synthesis": {"generator": "self", "variants": []}})
    folder = pipeline.run(recipe, tmp_path / "run", until="synthesis")
    counts = folder.manifest["synthesis"]
    assert sum(counts["written_by"].values()) == counts["qa"] == 3 and counts["records_without_rows"] == 0
    assert counts["usage"]["generator"]["asked"] > 0


def test_the_generator_self_needs_a_run(tmp_path, capsys):
    forget = people(tmp_path / "private.jsonl", "private", 3)
    command = ["synthesize", "--forget", forget, "--out", str(tmp_path / "out"), "--generator", "self"]
    assert run_command(command) == 2 and not (tmp_path / "out").exists()
    assert "the generator self is the start model of a run" in capsys.readouterr().err
