"""Code in the repository of a model runs when the user says so, and never because a run folder says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import relearn
from people import people
from relearn.cli import run_command
from relearn.core.config import Model, Recipe
from relearn.core.errors import InputError
from relearn.core.files import read_json
from relearn.core.ownership import read_recipe
from relearn.core.run_dir import RunFolder
from relearn.models.load import load_config, load_tokenizer

FLAG = "--trust-remote-code"
PARTS = {"forget": "private", "retain": "public"}
CODE = """
import os
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path(os.environ["MARKER"]).touch()


class OwnConfig(LlamaConfig):
    model_type = "ownmodel"

    def __init__(self, **values):
        Path(os.environ["MARKER"]).touch()
        super().__init__(**values)


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    def __init__(self, *given, **values):
        Path(os.environ["MARKER"]).touch()
        super().__init__(*given, **values)
"""


@pytest.fixture(autouse=True)
def marker(tmp_path, monkeypatch) -> Path:
    """The file that the code writes when it runs."""
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    # Where transformers keeps a copy of the code.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "marker"


@pytest.fixture
def own_model(tiny_model_dir, tmp_path) -> Path:
    """A model whose configuration, weights and tokenizer are of classes in its own folder."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "own"))
    (folder / "own.py").write_text(CODE)
    change(folder / "config.json", model_type="ownmodel", architectures=["OwnModel"])
    change(folder / "config.json", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"})
    own_tokenizer = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=own_tokenizer)
    return folder


def change(file: Path, **values) -> None:
    file.write_text(json.dumps({**read_json(file), **values}))


@pytest.fixture(scope="module")
def finished(tiny_model_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    values = settings(tiny_model_dir, folder)
    return relearn.run(relearn.Recipe.from_mapping(values), folder / "run").path


def settings(model: Path, folder: Path) -> dict:
    return {
        "model": {"name": str(model)},
        "data": {part: people(folder / f"{part}.jsonl", kind, 2) for part, kind in PARTS.items()},
        "audit": "none",
        "unlearn": {"method": "ga", "epochs": 1, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 4},
        "metrics": {"bootstrap": 20, "entailment": None, "matcher": "exact"},
    }


@pytest.fixture
def foreign(finished, own_model, tmp_path) -> Path:
    """A run folder of another person: its recipe names a model with code and switches the code on."""
    folder = Path(shutil.copytree(finished, tmp_path / "foreign"))
    rewrite(folder / "recipe.yaml", name=str(own_model), trust_remote_code=True)
    manifest = read_json(folder / "manifest.json")
    (folder / "manifest.json").write_text(json.dumps({**manifest, "models": {}, "settings": {}}))
    return folder


def rewrite(recipe: Path, **model) -> None:
    values = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**values, "model": {**values["model"], **model}}))


def commands(folder: Path, out: Path) -> list[list[str]]:
    recipe = folder / "recipe.yaml"
    lines = [
        ["ask", folder, "Where does Ada live?"],
        ["generate", folder, "--questions", folder.parent / "forget.jsonl"],
        ["export", folder, "--out", out / "merged"],
        ["export", folder, "--out", out / "adapter", "--adapter"],
        ["export", folder, "--out", out / "answers", "--answers"],
        ["audit", folder, "--attacks", "plain"],
        ["analyze", folder, "--facts", "1"],
        ["evaluate", folder],
        ["report", folder],
        ["ui", folder, "--no-browser"],
        ["plan", recipe],
        ["run", recipe, "--out", folder, "--resume"],
        ["run", recipe, "--out", out / "run"],
        ["unlearn", recipe, "--out", out / "unlearned"],
        ["compare", recipe, "--methods", "ga", "--out", out / "compared", "--results", out / "results"],
        ["purge", folder],
    ]
    return [list(map(str, arguments)) for arguments in lines]


NEED_NO_MODEL = {"report", "purge"}


@pytest.mark.parametrize("number", range(16))
def test_no_command_runs_code_because_a_folder_says_so(foreign, marker, tmp_path, capsys, number):
    people(tmp_path / "forget.jsonl", "private", 2)
    arguments = commands(foreign, tmp_path)[number]
    needs_model = arguments[0] not in NEED_NO_MODEL and not {"--adapter", "--answers"} & set(arguments)
    code = run_command(arguments)
    said = capsys.readouterr()
    assert code == (2 if needs_model else 0), said
    assert not marker.exists()
    if needs_model:
        assert FLAG in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize("number", [0, 7, 11])
def test_without_the_key_the_model_is_not_run_either(foreign, marker, tmp_path, capsys, number):
    rewrite(foreign / "recipe.yaml", trust_remote_code=False)
    assert run_command(commands(foreign, tmp_path)[number]) == 2
    said = capsys.readouterr().err
    assert not marker.exists() and FLAG in said and said.count("\n") == 1


def test_every_place_where_a_model_is_named_is_refused(foreign, own_model, marker, tmp_path, capsys):
    forget = people(tmp_path / "forget.jsonl", "private", 2)
    given = ["--after", str(own_model), "--forget", forget, "--metrics", "rouge_l", "--out", str(tmp_path / "out")]
    assert run_command(["evaluate", *given]) == 2 and FLAG in capsys.readouterr().err
    pair = ["--before", str(own_model), "--after", str(own_model), "--forget", forget, "--out", str(tmp_path / "pair")]
    assert run_command(["audit", *pair, "--attacks", "plain"]) == 2 and FLAG in capsys.readouterr().err
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    spec = {"name": str(own_model), "trust_remote_code": True}
    (evaluation / "evaluation.yaml").write_text(yaml.safe_dump({"after": spec, "forget": {"path": forget}}))
    (evaluation / "manifest.json").write_text(json.dumps({"relearn": {"format": 1}, "stages": {}}))
    assert run_command(["evaluate", str(evaluation)]) == 2 and FLAG in capsys.readouterr().err
    assert not marker.exists()


def test_a_folder_names_no_task_file_of_lm_eval(finished, tmp_path):
    folder = RunFolder(shutil.copytree(finished, tmp_path / "copy"))
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    values["metrics"]["ability"]["tasks"] = ["evil.yaml"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=r"lm-eval task file evil.yaml.*--trust-remote-code"):
        folder.recipe_to_load()
    assert folder.recipe_to_load(trust_remote_code=True).metrics.ability.tasks == ("evil.yaml",)


def test_a_folder_reads_no_environment_variable(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "sesame")
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    rewrite(folder / "recipe.yaml", name="${MY_KEY}")
    for arguments in commands(folder, tmp_path)[:14]:
        run_command(arguments)
    said = capsys.readouterr()
    assert "environment variable" in said.err and "sesame" not in said.err + said.out
    assert RunFolder(folder).recipe.model.name == "${MY_KEY}"
    assert "sesame" not in "".join(file.read_text(errors="replace") for file in folder.rglob("*.*") if file.is_file())


def test_the_user_switches_it_on(own_model, marker, tmp_path, capsys):
    spec = Model(name=str(own_model), trust_remote_code=True)
    assert type(load_tokenizer(spec)).__name__ == "OwnTokenizer" and type(load_config(spec)).__name__ == "OwnConfig"
    recipe, out = tmp_path / "recipe.yaml", str(tmp_path / "run")
    recipe.write_text(yaml.safe_dump(settings(own_model, tmp_path)))
    assert run_command(["run", str(recipe), "--out", out]) == 2 and FLAG in capsys.readouterr().err
    assert run_command(["run", str(recipe), "--out", out, "--dry-run", FLAG]) == 0
    assert run_command(["unlearn", str(recipe), "--out", out, FLAG]) == 0
    capsys.readouterr()
    for own in (recipe, Path(out) / "recipe.yaml"):
        assert run_command(["run", str(own), "--out", out, "--resume"]) == 2
        assert FLAG in capsys.readouterr().err
    assert run_command(["run", str(recipe), "--out", out, "--resume", FLAG]) == 0
    assert run_command(["ask", out, "Where?"]) == 2
    assert run_command(["ask", out, "Where?", FLAG]) == 0
    assert run_command(["evaluate", out, "--set", "metrics.c1=0.5", FLAG]) == 0
    assert run_command(["export", out, "--out", str(tmp_path / "merged"), FLAG]) == 0
    assert marker.exists()


def test_the_key_of_the_users_own_recipe_counts(own_model, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    values = settings(own_model, tmp_path)
    recipe.write_text(yaml.safe_dump({**values, "model": {**values["model"], "trust_remote_code": True}}))
    assert read_recipe(recipe).model.trust_remote_code
    assert Recipe.from_yaml(recipe).model.trust_remote_code
    relearn.run(read_recipe(recipe), tmp_path / "run", until="before")
    relearn.run(read_recipe(recipe), tmp_path / "run", until="before", resume=True)
    with pytest.raises(InputError, match=FLAG):
        relearn.run(read_recipe(recipe).trusting(False), tmp_path / "run", until="before", resume=True)
