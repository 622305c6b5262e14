"""What the stages of a run rest on is in the manifest by hash; where it has changed, no command goes on with it."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

import relearn
from people import people
from relearn.cli import run_command
from relearn.core.config import Model, Recipe
from relearn.core.errors import InputError
from relearn.core.files import file_hash, read_json, read_jsonl, write_json, write_jsonl
from relearn.core.run_dir import RunFolder
from relearn.inference.run_models import fingerprint

ANSWERS = "after/forget.jsonl"


@pytest.fixture(scope="module")
def finished(tiny_model_dir, tmp_path_factory) -> Path:
    """A folder with a model, data, a recipe and a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(tiny_model_dir, folder / "model")
    (folder / "private").mkdir()
    private = [people(folder / "private" / f"{part}.jsonl", "private", count) for part, count in (("a", 3), ("b", 1))]
    Path(private[1]).write_text(Path(private[1]).read_text().replace("Ada Holm", "Gil Reed"))
    values = {
        "model": {"name": "model"},
        "data": {"forget": "private", "retain": "public.jsonl"},
        "learn": {"data": "private", "epochs": 1, "lora": {"r": 2}},
        "audit": "none",
        "unlearn": {"method": "ga", "epochs": 1, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 4},
        "metrics": {"bootstrap": 20, "entailment": None, "matcher": "exact"},
    }
    people(folder / "public.jsonl", "public", 3)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        relearn.run(Recipe.from_yaml(folder / "recipe.yaml"), "run")
    return folder


@pytest.fixture
def here(finished, tmp_path, monkeypatch) -> Path:
    """A copy of it, which is the current folder."""
    folder = shutil.copytree(finished, tmp_path / "here")
    monkeypatch.chdir(folder)
    return Path(folder)


def stop_before(stage: str) -> None:
    """Leave the run as a process that was killed before a stage leaves it."""
    names = ["learn", "before", "unlearn", "after", "perplexity", "scores", "report"]
    manifest = read_json(Path("run/manifest.json"))
    for name in names[names.index(stage) :]:
        manifest["stages"].pop(name)
    write_json(Path("run/manifest.json"), manifest)


def without_hashes() -> None:
    """Leave the folder as version 0.1 left it."""
    manifest = read_json(Path("run/manifest.json"))
    kept = {name: value for name, value in manifest.items() if name not in ("files", "models", "settings")}
    write_json(Path("run/manifest.json"), kept)


def change_weights(file: str = "model/model.safetensors") -> None:
    save_file({name: weights + 0.25 for name, weights in load_file(file).items()}, file, metadata={"format": "pt"})


def resume() -> list[str]:
    return ["run", "recipe.yaml", "--out", "run", "--resume"]


LOADING = {
    "resume": resume(),
    "ask": ["ask", "run", "Where?"],
    "export": ["export", "run", "--out", "merged"],
    "audit": ["audit", "run", "--attacks", "plain"],
    "analyze": ["analyze", "run", "--facts", "1"],
    "generate": ["generate", "run", "--questions", "public.jsonl"],
}
SCORING = {"evaluate": ["evaluate", "run"], "report": ["report", "run"], "ui": ["ui", "run", "--no-browser"]}


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert run_command(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "has changed since" in said, said
    return said


def test_the_manifest_holds_the_hashes(here):
    manifest = read_json(Path("run/manifest.json"))
    assert set(manifest["inputs"]) == {"private", "public.jsonl"} and set(manifest["models"]) == {"model"}
    tracked = {"start/adapter_model.safetensors", "adapter/adapter_model.safetensors", "before/forget.jsonl", ANSWERS}
    assert tracked <= set(manifest["files"])
    assert all(file_hash(Path("run") / name) == digest for name, digest in manifest["files"].items())


def test_other_weights_are_refused_by_every_command_that_loads_them(here, capsys):
    stop_before("unlearn")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    change_weights()
    for arguments in (*LOADING.values(), SCORING["evaluate"]):
        assert "the recipe's model: has changed since this run began" in refused(capsys, *arguments), arguments
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["start", "adapter"])
def test_another_adapter_is_refused(here, capsys, name):
    file = f"run/{name}/adapter_model.safetensors"
    change_weights(file)
    for arguments in LOADING.values():
        said = refused(capsys, *arguments)
        assert f"{file}: has changed since relearn wrote it -> restore it, or remove it" in said
    Path(file).unlink()
    assert run_command(resume()) == 0


def test_other_data_in_a_folder_are_refused(here, capsys):
    stop_before("unlearn")
    people(Path("private/c.jsonl"), "private", 1)
    assert "private: has changed since this run began" in refused(capsys, *resume())
    Path("private/c.jsonl").unlink()
    Path("private/readme.txt").write_text("no data")
    assert run_command(resume()) == 0


def test_other_settings_in_both_recipes_are_refused(here, capsys):
    stop_before("unlearn")
    for path in (Path("recipe.yaml"), Path("run/recipe.yaml")):
        values = yaml.safe_load(path.read_text())
        values["synthesis"] = {**values.get("synthesis", {}), "temperature": 0.1}
        path.write_text(yaml.safe_dump(values))
    assert "the key synthesis of the recipe: has changed since this run began" in refused(capsys, *resume())


@pytest.mark.parametrize("change", ["lost", "edited"])
def test_answers_that_changed_are_not_scored(here, capsys, change):
    kept = Path("run", ANSWERS).read_bytes()
    rows = read_jsonl(Path("run", ANSWERS))
    changed = rows[:2] if change == "lost" else [{**rows[0], "response": "I know nothing."}, *rows[1:]]
    write_jsonl(Path("run", ANSWERS), changed)
    summary = Path("run/summary.json").read_bytes()
    for arguments in (resume(), *SCORING.values()):
        said = refused(capsys, *arguments)
        assert f"run/{ANSWERS}: has changed since relearn wrote it -> restore it, or remove it: relearn run" in said
    assert Path("run/summary.json").read_bytes() == summary
    Path("run", ANSWERS).unlink()
    assert run_command(resume()) == 0
    assert Path("run", ANSWERS).read_bytes() == kept


def test_a_folder_without_hashes_goes_on_and_gets_them(here, capsys):
    without_hashes()
    assert run_command(LOADING["ask"]) == 0
    stop_before("after")
    assert run_command(resume()) == 0
    manifest = read_json(Path("run/manifest.json"))
    assert "model" in manifest["models"] and ANSWERS in manifest["files"] and "synthesis" in manifest["settings"]
    without_hashes()
    write_jsonl(Path("run", ANSWERS), read_jsonl(Path("run", ANSWERS))[:2])
    for arguments in SCORING.values():
        capsys.readouterr()
        assert run_command(arguments) == 2
        assert f"run/{ANSWERS}: has 2 of 4 answers -> restore it, or remove it" in capsys.readouterr().err


def test_a_killed_stage_leaves_no_hash_behind(here):
    folder = RunFolder("run")
    with pytest.raises(KeyboardInterrupt), folder.stage("perplexity", [ANSWERS]):
        write_jsonl(folder / ANSWERS, [{"id": "half"}])
        raise KeyboardInterrupt
    assert ANSWERS not in folder.manifest["files"] and folder.rows(ANSWERS) == [{"id": "half"}]


@pytest.mark.parametrize("arguments", [["report", "run"], ["evaluate", "run", "--set", "metrics.c1=0.5"]])
def test_nothing_is_written_while_a_process_is_at_work(here, capsys, arguments):
    with Path("run/lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
        assert run_command(arguments) == 2
        assert "run: another process is at work here" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_scoring_that_fails_leaves_the_recipe(here, capsys, monkeypatch):
    recipe = Path("run/recipe.yaml").read_bytes()

    def fail(*_):
        raise InputError("cannot be read", where="judge")

    with monkeypatch.context() as patched:
        patched.setattr("relearn.workflows.run.eval_stages.make_judges", fail)
        assert run_command(["evaluate", "run", "--set", "metrics.c1=0.4"]) == 2
    assert Path("run/recipe.yaml").read_bytes() == recipe
    assert run_command(["evaluate", "run", "--set", "metrics.c1=0.5"]) == 0
    assert RunFolder("run").recipe.metrics.c1 == 0.5


def test_a_comparison_does_not_write_over_the_recipe_that_it_is_based_on(here, capsys):
    shutil.copytree("run", "out/runs/ga_1e")
    Path("compare.yaml").write_text("name: mine\nbase: out/runs/ga_1e/recipe.yaml\nmethods: [ga]\n")
    recipe = Path("out/runs/ga_1e/recipe.yaml").read_bytes()
    assert run_command(["compare", "compare.yaml", "--out", "out", "--results", "results"]) == 2
    assert "ga_1e/recipe.yaml: would be written over the input" in capsys.readouterr().err
    assert Path("out/runs/ga_1e/recipe.yaml").read_bytes() == recipe and not Path("results").exists()


def test_an_evaluation_scores_no_changed_answers(here, capsys):
    options = ["--after", "model", "--forget", "private", "--set", "generate.max_new_tokens=4", "--metrics", "rouge_l"]
    command = ["evaluate", *options, "--out", "out"]
    assert run_command(command) == 0
    write_jsonl(Path("out", ANSWERS), read_jsonl(Path("out", ANSWERS))[:2])
    for arguments in (command, ["evaluate", "out"], ["report", "out"]):
        assert f"out/{ANSWERS}: has changed since relearn wrote it" in refused(capsys, *arguments)
    Path("out", ANSWERS).unlink()
    assert run_command(command) == 0
    people(Path("private/c.jsonl"), "private", 1)
    assert "private: has changed since this evaluation began" in refused(capsys, *command)


def test_a_model_of_the_hub_is_known_by_the_names_of_its_files(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = Model(name="somebody/tiny")
    assert fingerprint(spec) is None
    repository, commit = tmp_path / "models--somebody--tiny", "0" * 40
    snapshot = repository / "snapshots" / commit
    for folder in (repository / "refs", repository / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(tiny_model_dir / name, snapshot / name)
    assert fingerprint(spec) is None, "the weights are not there yet"
    blob = repository / "blobs" / file_hash(tiny_model_dir / "model.safetensors")
    shutil.copy(tiny_model_dir / "model.safetensors", blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    known = fingerprint(spec)
    blob.write_bytes(b"not read for its hash")
    assert known is not None and fingerprint(spec) == known
    other = repository / "blobs" / ("f" * 64)
    other.write_bytes(b"")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(other)
    assert fingerprint(spec) != known


def test_a_hub_model_is_recorded_once_it_is_there_and_then_held_to(here, monkeypatch):
    stop_before("after")
    manifest = read_json(Path("run/manifest.json"))
    write_json(Path("run/manifest.json"), {**manifest, "models": {}})
    recipe = Recipe.from_yaml(Path("recipe.yaml"))
    digests = iter([None, None, "new", "new", "new"])
    monkeypatch.setattr("relearn.inference.run_models.fingerprint", lambda spec: next(digests, "new"))
    relearn.run(recipe, "run", resume=True)
    assert read_json(Path("run/manifest.json"))["models"] == {"model": "new"}
    monkeypatch.setattr("relearn.inference.run_models.fingerprint", lambda spec: "newer")
    with pytest.raises(InputError, match="the recipe's model: has changed"):
        relearn.run(recipe, "run", resume=True)


def test_the_code_of_a_trusted_model_counts_too(here):
    (here / "model" / "own.py").write_text("one = 1")
    trusted = Recipe.from_yaml(Path("recipe.yaml")).trusting(True)
    relearn.run(trusted, "trusted", until="before")
    (here / "model" / "own.py").write_text("one = 2")
    with pytest.raises(InputError, match=r"model \(its code\): has changed"):
        relearn.run(trusted, "trusted", until="before", resume=True)
    assert json.loads((here / "trusted/manifest.json").read_text())["models"].keys() == {"model", "model (its code)"}
