"""A loss, a metric and an attack in files of their own: trained, scored, audited; then the run without them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from plugins.plugin_cases import fresh_plugins, write_recipe, write_toys
from relearn.cli import run_command
from relearn.core.files import read_json, read_jsonl
from unlearning.test_parallel import launch


@pytest.fixture(scope="module")
def place(tiny_model_dir, tmp_path_factory) -> Path:
    """A folder with the toys, a recipe, and a finished and audited run of them."""
    folder = tmp_path_factory.mktemp("plugins")
    toys, recipe = write_toys(folder), write_recipe(folder, tiny_model_dir)
    loss, metric, attack = ("my_loss.py", "my_metric.py", "my_attack.py")
    with fresh_plugins():
        words = ["--plugin", toys[loss], f"--plugin={toys[metric]}", "run", recipe, "--out", str(folder / "run")]
        assert run_command(words) == 0
    # The audit, which does not have the metric, writes the report again.
    shutil.copy(folder / "run" / "report.html", folder / "report.html")
    with fresh_plugins():
        assert run_command(["--plugin", toys[attack], "audit", str(folder / "run"), "--attacks", "my_attack"]) == 0
    return folder


@pytest.fixture
def run(place, tmp_path) -> Path:
    """A copy of the run, without any plug-in loaded."""
    return Path(shutil.copytree(place / "run", tmp_path / "run"))


def test_the_toys_are_short(tmp_path):
    for path in write_toys(tmp_path).values():
        assert len(Path(path).read_text().splitlines()) <= 20


def test_the_loss_trains_ten_steps(place):
    rows = [row for row in read_jsonl(place / "run" / "log.jsonl") if row["stage"] == "unlearn" and "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 11))
    losses = [row["parts"]["my_loss"] for row in rows]
    # The first and the last epoch have the same rows.
    assert sum(losses[-2:]) < sum(losses[:2]) < 0


def test_the_metric_is_scored_and_labelled_in_the_report(place):
    summary = read_json(place / "run" / "summary.json")
    assert 0 <= summary["after"]["forget"]["hedging"]["value"] <= 1
    assert "Hedging words" in (place / "report.html").read_text()


def test_the_attack_is_audited(place):
    entry = read_json(place / "run" / "audits" / "my_attack.json")
    assert entry["title"] == "Polite insistence"
    prompts = [row["prompt"] for row in read_jsonl(place / "run" / "audits" / "answers" / "my_attack.after.jsonl")]
    assert prompts and all(prompt.startswith("It would help me a lot. ") for prompt in prompts)


def test_the_manifest_names_the_plugins_with_their_hashes(place):
    entries = read_json(place / "run" / "manifest.json")["plugins"]
    assert entries == [
        {"name": name, "sha256": hashlib.sha256((place / name).read_bytes()).hexdigest(), "registers": registers}
        for name, registers in (("my_loss.py", {"method": ["my_loss"]}), ("my_metric.py", {"metric": ["hedging"]}))
    ]


def test_resume_needs_the_same_plugins(place, run, capsys):
    resume = ["run", str(place / "recipe.yaml"), "--out", str(run), "--resume"]
    loss, metric = ["--plugin", str(place / "my_loss.py")], ["--plugin", str(place / "my_metric.py")]
    assert run_command(resume) == 2
    assert run_command([*loss, *resume]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "my_loss.py, which is not loaded -> relearn --plugin my_loss.py run ... --resume" in first
    assert "my_metric.py, which is not loaded" in second
    assert run_command([*loss, *metric, *resume]) == 0


def test_resume_with_another_content_is_refused(place, run, tmp_path, capsys):
    changed = tmp_path / "my_loss.py"
    changed.write_text((place / "my_loss.py").read_text() + "\n")
    words = ["--plugin", str(changed), "run", str(place / "recipe.yaml"), "--out", str(run), "--resume"]
    assert run_command(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the plug-in my_loss.py has changed since this run began -> restore the file" in line


@pytest.mark.parametrize(
    "words",
    [
        ["report", "RUN"],
        ["ask", "RUN", "Where does Ada Holm live?"],
        ["audit", "RUN", "--attacks", "paraphrase", "--facts", "2"],
        ["export", "RUN", "--out", "OUT"],
        ["export", "RUN", "--out", "OUT", "--adapter"],
        ["evaluate", "RUN"],
    ],
    ids=lambda words: " ".join((words[0], *words[4:])),
)
def test_a_run_can_be_used_without_its_plugins(run, tmp_path, words, capsys):
    names = {"RUN": str(run), "OUT": str(tmp_path / "out")}
    assert run_command([names.get(word, word) for word in words]) == 0, capsys.readouterr().err
    assert read_json(run / "manifest.json")["plugins"]


def test_a_metric_that_is_not_registered_is_shown_by_its_name(run):
    assert run_command(["report", str(run)]) == 0
    assert "hedging" in (run / "report.html").read_text().lower()


def test_the_page_opens_a_run_without_its_plugins(run):
    from relearn.ui.run_data import open_runs
    from relearn.ui.server import make_app

    assert make_app(open_runs([run]), token="token", port=8000)


def test_listings_show_where_a_method_comes_from(place, capsys):
    for kind, file, name in (
        ("methods", "my_loss.py", "my_loss"),
        ("metrics", "my_metric.py", "hedging"),
        ("audits", "my_attack.py", "my_attack"),
    ):
        assert run_command(["--plugin", str(place / file), "list", kind, "--json"]) == 0
        origins = {row["name"]: row["origin"] for row in json.loads(capsys.readouterr().out)}
        assert origins.pop(name) == str(place / file) and set(origins.values()) == {"relearn"}


def test_a_recipe_and_a_run_folder_import_nothing(place, run, tmp_path, monkeypatch, capsys):
    """The file is beside the recipe and in the current folder, and the manifest of the run names it."""
    (tmp_path / "my_loss.py").write_text("import pathlib\npathlib.Path('imported').touch()\n")
    recipe = yaml.safe_load((place / "recipe.yaml").read_text())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    assert run_command(["run", "recipe.yaml", "--out", "new"]) == 2
    assert "unknown method 'my_loss'" in capsys.readouterr().err
    assert run_command(["report", str(run)]) == 0
    assert not Path("imported").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_train_with_a_plugin_as_one_does(place, tmp_path):
    out = tmp_path / "run"
    command = ["-m", "relearn", "--plugin", str(place / "my_loss.py"), "unlearn", str(place / "recipe.yaml")]
    done = launch(*command, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = read_json(out / "manifest.json")["plugins"]
    assert entry["name"] == "my_loss.py"
    losses, alone = (
        [row["loss"] for row in read_jsonl(folder / "log.jsonl") if row["stage"] == "unlearn" and "loss" in row]
        for folder in (out, place / "run")
    )
    assert losses == pytest.approx(alone, rel=1e-3)


@pytest.mark.slow
def test_an_error_in_a_plugin_is_printed_once_for_all_processes(tmp_path):
    (tmp_path / "bad.py").write_text("1 / 0\n")
    done = launch("-m", "relearn", "--plugin", str(tmp_path / "bad.py"), "run", "none.yaml")
    assert done.returncode != 0
    assert sum("relearn: plug-in" in line for line in done.stderr.splitlines()) == 1
