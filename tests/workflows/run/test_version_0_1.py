"""Run folders that version 0.1 wrote open and resume, and its command lines are still accepted."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from relearn.cli import run_command

VERSION_0_1 = Path(__file__).resolve().parents[2] / "cases" / "version_0_1"


@pytest.fixture
def folder(tiny_model_dir, tmp_path) -> Path:
    """Copy the folders of version 0.1 and put this machine's paths in place of their placeholder."""
    target = tmp_path / "old"
    shutil.copytree(VERSION_0_1, target)
    (target / "model").symlink_to(tiny_model_dir)
    for path in target.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".yaml", ".md", ".jsonl"):
            path.write_text(path.read_text().replace("@FOLDER@", str(target)))
    return target


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def assert_close(actual: object, expected: object) -> None:
    """Compare two JSON documents; numbers may differ by the rounding of another processor.

    The intervals of 0.1 are not compared: shares of 0 and 1 had none.
    """
    if isinstance(expected, dict):
        assert isinstance(actual, dict) and expected.keys() <= actual.keys()
        for key, value in expected.items():
            if key not in ("low", "high"):
                assert_close(actual[key], value)
    elif isinstance(expected, list):
        assert isinstance(actual, list) and len(actual) == len(expected)
        for left, right in zip(actual, expected, strict=True):
            assert_close(left, right)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=1e-4, abs=1e-4)
    else:
        assert actual == expected


@pytest.mark.parametrize(
    "words",
    [
        ["report", "FOLDER"],
        ["ask", "FOLDER", "Where does Ada Holm live?"],
        ["audit", "FOLDER", "--attacks", "paraphrase", "--facts", "2"],
        ["evaluate", "FOLDER"],
        ["export", "FOLDER", "--out", "OUT"],
        ["purge", "FOLDER", "--yes"],
    ],
    ids=lambda words: words[0],
)
def test_a_finished_folder_opens(folder, tmp_path, words, capsys):
    paths = {"FOLDER": str(folder / "finished"), "OUT": str(tmp_path / "out")}
    assert run_command([paths.get(word, word) for word in words]) == 0, capsys.readouterr().err


def test_a_finished_folder_is_certified(folder, tmp_path):
    run, key = str(folder / "finished"), str(tmp_path / "key")
    assert run_command(["audit", run, "--attacks", "plain", "--facts", "2"]) == 0
    assert run_command(["certify", "--new-key", key]) == 0
    assert run_command(["certify", run, "--key", key]) == 0
    assert run_command(["certify", "--verify", run, "--key", key, "--model", run]) == 0
    assert "not_attacked" in (folder / "finished/certificate.json").read_text()


def test_the_page_reads_a_finished_folder(folder):
    from relearn.ui.run_data import open_runs
    from relearn.ui.server import make_app

    assert make_app(open_runs([folder / "finished"]), token="token", port=8000)


def test_scores_computed_again_are_those_of_0_1(folder):
    before = summary_of(folder / "finished")
    assert run_command(["evaluate", str(folder / "finished")]) == 0
    assert_close(summary_of(folder / "finished"), before)


def test_a_half_finished_folder_resumes_to_the_same_rows(folder):
    half, finished = folder / "half", folder / "finished"
    assert run_command(["run", str(folder / "recipe.yaml"), "--out", str(half), "--resume"]) == 0
    assert (half / "synthesis.jsonl").read_bytes() == (finished / "synthesis.jsonl").read_bytes()
    assert_close(summary_of(half), summary_of(finished))
    assert (half / "report.html").exists()


def test_every_option_of_0_1_is_still_offered(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command, options in json.loads((VERSION_0_1 / "options.json").read_text()).items():
        assert run_command([command, "--help"]) == 0
        offered = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
        assert set(options) <= offered, command
