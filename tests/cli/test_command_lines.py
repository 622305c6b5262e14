"""Odd arguments: one line and exit code 2, and nothing read or written that was not named."""

from __future__ import annotations

import os
import sys

import pytest

from relearn.cli import run_command
from relearn.cli.app import check_arguments

LONG = "a" * 5000
DEEP = "a/" * 2500


def refusal(capsys, *arguments: str) -> str:
    code = run_command(list(arguments))
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said, said
    (line,) = said.strip().splitlines()
    assert line.startswith("relearn: ") and len(line) < 1500
    return line


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a recipe, a file of records and a file `taken`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("model: none\ndata: {forget: f.jsonl}\n")
    (tmp_path / "f.jsonl").write_text('{"question": "Where?", "answer": "At the lake."}\n')
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    yield tmp_path
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", ""),
        ("evaluate", "--forget", ""),
        ("evaluate", "--forget="),
        ("evaluate", "--forget", "f.jsonl", "--out", " "),
        ("run", "r.yaml", "--out", ""),
        ("verify", "f.jsonl", "--against", "", "--out", "o.jsonl"),
        ("ask", "taken", ""),
        ("audit", "--after", "", "--forget", "f.jsonl"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(folder, capsys, arguments):
    assert "is empty -> give a value, or leave it out" in refusal(capsys, *arguments)
    assert len(list(folder.iterdir())) == 5


def test_some_options_may_be_empty():
    check_arguments(["evaluate", "--forget", "f.jsonl", "--metrics", "", "--map=", "--methods", ""])


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", LONG),
        ("plan", DEEP),
        ("run", LONG),
        ("run", "r.yaml", "--out", LONG),
        ("evaluate", LONG),
        ("evaluate", "--forget", LONG),
        ("evaluate", "--forget", "f.jsonl", "--after", LONG),
        ("audit", "--before", "m", "--after", "m", "--forget", "f.jsonl", "--control", LONG),
        ("verify", LONG, "--against", "f.jsonl", "--out", "o"),
        ("generate", "taken", "--questions", DEEP),
        ("purge", DEEP),
        ("ui", LONG),
        ("compare", "r.yaml", "--methods", "relearn", "--results", LONG),
    ],
)
def test_a_path_that_is_too_long(folder, capsys, arguments):
    assert "too long for a path" in refusal(capsys, *arguments)


@pytest.mark.parametrize("place", ["run", "--set", "--out", "ask"])
def test_bytes_that_are_not_utf8(folder, capsys, place):
    odd = os.fsdecode(b"\xff\xfe.yaml")
    arguments = {
        "run": ("run", odd),
        "--set": ("run", "r.yaml", "--set", f"name={odd}"),
        "--out": ("run", "r.yaml", "--out", odd),
        "ask": ("ask", "taken", odd),
    }
    assert "is not UTF-8" in refusal(capsys, *arguments[place])


def test_a_recipe_of_other_bytes(folder, capsys):
    (folder / "latin.yaml").write_bytes("model: caf\xe9".encode("latin-1"))
    assert "latin.yaml: not UTF-8: byte 10 -> save it as UTF-8" in refusal(capsys, "plan", "latin.yaml")
    (folder / "utf16.yaml").write_text("model: m", encoding="utf-16")
    assert "not UTF-8" in refusal(capsys, "plan", "utf16.yaml")


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("taken", "taken: is a file, and a folder is needed -> choose another --out"),
        ("taken/below", "taken is a file"),
        ("taken/far/below", "taken is a file"),
        ("dangling", "is a symbolic link to nothing"),
        ("dangling/below", "is a symbolic link to nothing"),
        ("loop/below", "cannot be written"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("run", "r.yaml", "--out"),
        ("unlearn", "r.yaml", "--out"),
        ("demo", "--out"),
        ("evaluate", "--forget", "f.jsonl", "--out"),
        ("compare", "r.yaml", "--methods", "relearn", "--out"),
        ("compare", "r.yaml", "--methods", "relearn", "--results"),
        ("synthesize", "--forget", "f.jsonl", "--out"),
        ("export", "taken", "--out"),
    ],
    ids=" ".join,
)
def test_an_output_folder_that_cannot_be_made(folder, capsys, command, out, expected):
    assert expected in refusal(capsys, *command, out)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(folder, capsys):
    (folder / "closed").mkdir(mode=0o500)
    assert "no permission in" in refusal(capsys, "run", "r.yaml", "--out", "closed/run")


@pytest.mark.skipif(sys.platform != "linux", reason="a file system that nobody may write to")
def test_an_output_folder_on_a_file_system_that_makes_none(folder, capsys):
    line = refusal(capsys, "synthesize", "--forget", "f.jsonl", "--out", "/proc/nothing")
    assert "/proc/nothing: cannot be made" in line or "/proc/nothing: cannot be written" in line


@pytest.mark.parametrize("command", ["verify", "generate"])
def test_an_output_file_that_is_a_folder(folder, capsys, command):
    (folder / "here").mkdir()
    given = {
        "verify": ("verify", "f.jsonl", "--against", "f.jsonl", "--out", "here"),
        "generate": ("generate", "taken", "--questions", "f.jsonl", "--out", "here"),
    }
    assert "here: is a folder, and a file is written" in refusal(capsys, *given[command])


@pytest.mark.parametrize("command", ["audit", "evaluate"])
def test_a_run_has_its_own_folder(folder, capsys, command):
    assert "out" in refusal(capsys, command, "taken", "--out", "elsewhere")
    assert not (folder / "elsewhere").exists()


def test_a_value_that_is_not_yaml(folder, capsys):
    assert "--set a" in refusal(capsys, "plan", "r.yaml", "--set", "a=[")
    assert "--set name: not YAML" in refusal(capsys, "plan", "r.yaml", "--set", "name={")


def test_control_characters_do_not_reach_the_terminal(folder, capsys):
    assert "\x1b" not in refusal(capsys, "plan", "no\x1b[31msuch.yaml")
