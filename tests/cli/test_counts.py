"""Options that are counts: a value below 1, or one that is no whole number, is refused before anything is read."""

from __future__ import annotations

import inspect

import pytest

from relearn.cli import evaluate_commands, run_command, run_commands

OPTIONS = {
    "--max-calls": ["synthesize", "--forget", "none.jsonl", "--out", "out"],
    "--facts": ["audit", "none"],
    "--samples": ["audit", "none"],
    "--facts ": ["analyze", "none"],
}


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "1e3", "many", ""])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_count_below_one_or_broken_is_one_line(option, value, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command([*OPTIONS[option], option.strip(), value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option.strip() in line and (f'"{value}"' in line or (not value and "is empty" in line))
    assert list(tmp_path.iterdir()) == []


def test_every_whole_number_of_a_command_is_a_count_a_seed_or_a_port():
    commands = [
        command
        for module in (run_commands, evaluate_commands)
        for _, command in inspect.getmembers(module, inspect.isfunction)
    ]
    numbers = {
        name
        for command in commands
        for name, parameter in inspect.signature(command).parameters.items()
        if str(parameter.annotation).startswith("int")
    }
    assert numbers <= {"seed", "port", "code"}
