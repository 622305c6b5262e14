"""Run README's recipe, commands and Python on the example data with a tiny model; check its links and line length."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from relearn.cli import run_command

PROBLEM = "README has no {} block"


@pytest.fixture(scope="module")
def readme(project_root) -> str:
    return (project_root / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    contents = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    assert contents, PROBLEM.format(language)
    return contents


@pytest.fixture
def folder(readme, project_root, tiny_model_dir, tmp_path, monkeypatch) -> Path:
    """A fresh folder with the README's recipe, the example data, and a tiny model for the demo model."""
    for path in (project_root / "recipes" / "example").iterdir():
        shutil.copy(path, tmp_path)
    recipe = blocks(readme, "yaml")[0].replace("smollm2-135m-instruct", str(tiny_model_dir))
    (tmp_path / "mine.yaml").write_text(recipe.replace("epochs: 3", "epochs: 1"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(readme: str) -> list[list[str]]:
    lines = [line for block in blocks(readme, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_commands_in_order(readme, folder, tiny_model_dir, capsys):
    mine = [words[1:] for words in commands(readme) if words[0] == "relearn" and "runs/demo" not in words]
    assert [words[0] for words in mine] == [
        *("run", "run", "audit", "export"),
        *("list", "compare"),
        *("evaluate", "export", "evaluate"),
    ]
    for words in mine:
        words = [str(tiny_model_dir) if word == "smollm2-135m-instruct" else word for word in words]
        assert run_command(words) == 0, capsys.readouterr().err
    assert (folder / "runs/mine/report.html").exists()
    assert (folder / "runs/mine/audits/verdicts.json").exists()
    assert (folder / "models/mine/model.safetensors").exists()
    assert (folder / "results/mine/npo_gdr+sure.json").exists()
    assert (folder / "runs/scores/report.html").exists()
    ask = next(words for words in commands(readme) if words[:2] == ["relearn", "ask"])
    assert run_command([word.replace("runs/demo", "runs/mine") for word in ask[1:]]) == 0
    assert "Marta Lindqvist" in capsys.readouterr().out


def test_python(readme, folder, capsys):
    exec(compile(blocks(readme, "python")[0], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "Where does Tamsin Orrery live? |" in printed
    assert re.search(r"0 of \d+ training rows tell a secret", printed)
    assert len(re.findall(r"\? \| (?:there|hidden|gone|never_known)", printed)) == 2
    assert (folder / "runs/python/audits/verdicts.json").exists()
    assert (folder / "runs/python/analysis/lens.json").exists()


def test_make_targets_and_commands_exist(readme, project_root):
    makefile = (project_root / "Makefile").read_text()
    for words in commands(readme):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE)
    for name in re.findall(r"`relearn ([a-z][a-z-]*)", readme):
        assert run_command([name, "--help"]) == 0


def test_every_command_is_in_the_readme(readme):
    from relearn.cli.app import app

    for name in app:
        if not name.startswith("-"):
            assert re.search(rf"`(?:relearn )?{name}\b", readme), name


def test_own_data_takes_eight_lines(readme):
    assert len(blocks(readme, "yaml")[0].splitlines()) <= 8


def test_no_line_is_longer_than_130_characters(readme):
    assert [line for line in readme.splitlines() if len(line) > 130] == []


def test_links_and_pictures_exist(readme, project_root):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (project_root / target).exists(), target


def test_every_folder_of_the_tree_is_in_the_guide_for_contributors(project_root):
    guide = (project_root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for folder in (project_root / "src" / "relearn").iterdir():
        if folder.is_dir() and not folder.name.startswith("__"):
            assert f"{folder.name}/" in guide, folder.name
