"""Loading of plug-ins: what is refused, in one line; installed packages; the contract checks of `check-plugin`."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from plugins.plugin_cases import write_recipe, write_toys
from relearn.cli import run_command
from relearn.core import plugins
from relearn.core.errors import InputError

LOSS = "from relearn.unlearning.method import method\n"
METRIC = "from relearn.metrics.metric import metric\n"
ATTACK = "from relearn.audits.attack import attack\n"
DECLARED = 'label="Toy", description="a toy", '
BAD_PLUGINS = {
    "missing": (None, "cannot be read: No such file or directory"),
    "raises": ("x = 1\n\nx / 0\n", "toy.py, line 3: ZeroDivisionError: division by zero"),
    "raises in a call": ("def f():\n    raise ValueError('no\\nway')\nf()\n", "toy.py, line 2: ValueError: no way"),
    "exits": ("import sys\nsys.exit(0)\n", "toy.py, line 2: SystemExit: 0"),
    "syntax": ("x = (\n", "toy.py, line 1: SyntaxError"),
    "import": ("import no_such_module_here\n", "line 1: ModuleNotFoundError: No module named 'no_such_module_here'"),
    "nothing": ("x = 1\n", "registers nothing -> decorate a function"),
    "taken": (
        LOSS + '@method("npo", paper="none")\ndef npo(forget):\n    return forget.mean_nll()\n',
        "method 'npo' is registered twice -> choose another name",
    ),
    "signature": (
        LOSS + '@method("toy", paper="none")\ndef toy(forgot):\n    return forgot.mean_nll()\n',
        "TypeError: toy takes 'forgot', which is no input of a loss: did you mean 'forget'?",
    ),
}
FAULTY = {
    "sum": (LOSS + '@method("toy", paper="none")\ndef toy(forget):\n    return -forget.token_nll().sum()\n', "a sum"),
    "in place": (
        LOSS + '@method("toy", paper="none")\ndef toy(forget):\n'
        "    if forget.logits is not None:\n        forget.logits.detach().mul_(2)\n    return forget.mean_nll()\n",
        "in place",
    ),
    "shape": (LOSS + '@method("toy", paper="none")\ndef toy(forget):\n    return -forget.token_nll()\n', "has shape"),
    "metric count": (
        METRIC + f'@metric("toy", {DECLARED}better={{"forget": "lower"}})\ndef toy(rows):\n    return [1.0]\n',
        "returned 1 values for",
    ),
    "metric bounds": (
        METRIC + f'@metric("toy", {DECLARED}better={{"forget": "lower"}})\ndef toy(rows):\n'
        "    return [len(row.response) for row in rows]\n",
        "out of the bounds",
    ),
    "attack leaks": (
        ATTACK + f'@attack("toy", {DECLARED})\ndef toy(fact):\n    return f"{{fact.question}} {{fact.answer}}"\n',
        "contains the whole answer",
    ),
    "attack empty": (ATTACK + f'@attack("toy", {DECLARED})\ndef toy(fact):\n    return ""\n', "an empty prompt"),
}


@pytest.fixture
def toy(tmp_path) -> Path:
    return tmp_path / "toy.py"


@pytest.mark.parametrize("name", BAD_PLUGINS)
def test_what_cannot_be_loaded_is_one_line(name, toy, capsys):
    code, expected = BAD_PLUGINS[name]
    if code is not None:
        toy.write_text(code)
    for words in (["--plugin", str(toy), "list", "methods"], ["check-plugin", str(toy)]):
        assert run_command(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"relearn: plug-in {toy}") and expected in line


@pytest.mark.parametrize("name", FAULTY)
def test_faults_are_named_with_their_reason(name, toy, capsys):
    code, expected = FAULTY[name]
    toy.write_text(code)
    assert run_command(["check-plugin", str(toy)]) == 1
    out = capsys.readouterr().out
    assert re.search(r" toy: (1 fault|\d+ faults)\n", out) and expected in out


def test_the_toys_of_the_page_have_no_faults(tmp_path, capsys):
    for file in write_toys(tmp_path).values():
        assert run_command(["check-plugin", file]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.splitlines() == [
        "method my_loss: no faults",
        "metric hedging: no faults",
        "audit my_attack: no faults",
    ]


def test_a_file_is_run_once(toy, capsys):
    toy.write_text(FAULTY["sum"][0])
    words = ["--plugin", str(toy), "--plugin", str(toy), "list", "methods"]
    assert run_command(words) == 0 and run_command(words) == 0
    assert f"origin: {toy}" in capsys.readouterr().out


def test_the_option_stands_before_the_command(toy, capsys):
    assert run_command(["list", "methods", "--plugin", str(toy)]) == 2
    assert run_command(["--plugin"]) == 2
    assert all("-> relearn --plugin FILE.py COMMAND" in line for line in capsys.readouterr().err.splitlines())


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that installs a package with one module and the entry point of a plug-in, as pip does."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def install(code: str, version: str = "1.2") -> None:
        info = site / "toy_losses.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toy-losses\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nlosses = toy_losses\n")
        (site / "toy_losses.py").write_text(code)
        sys.modules.pop("toy_losses", None)
        importlib.invalidate_caches()

    yield install
    sys.modules.pop("toy_losses", None)


def test_an_installed_package_needs_no_option(installed, tmp_path, tiny_model_dir, capsys):
    code = FAULTY["sum"][0].replace('"toy"', '"my_loss"').replace(".sum()", ".mean()")
    installed(code)
    assert run_command(["list", "methods"]) == 0
    assert "origin: toy-losses 1.2" in capsys.readouterr().out
    recipe = write_recipe(tmp_path, tiny_model_dir, options={}, epochs=1)
    assert run_command(["unlearn", recipe, "--out", str(tmp_path / "run")]) == 0
    manifest = (tmp_path / "run" / "manifest.json").read_text()
    assert '"name": "toy-losses"' in manifest and '"version": "1.2"' in manifest
    plugins.LOADED[0] = plugins.Plugin("toy-losses", "toy-losses 1.3", {"method": ["my_loss"]}, version="1.3")
    assert run_command(["unlearn", recipe, "--out", str(tmp_path / "run"), "--resume"]) == 2
    assert "toy-losses has changed since this run began -> pip install 'toy-losses==1.2'" in capsys.readouterr().err


def test_an_installed_package_that_fails_is_one_line(installed, capsys):
    installed("1 / 0\n")
    assert run_command(["list", "methods"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "plug-in toy-losses 1.2: " in line and "toy_losses.py, line 1: ZeroDivisionError" in line
    assert run_command(["doctor"]) == 0


def test_used_by_leaves_out_other_methods_and_attacks():
    registers = ({"method": ["a"]}, {"method": ["b"]}, {"audit": ["c"]}, {"metric": ["d"]}, {"mask": ["e"]})
    plugins.LOADED[:] = [plugins.Plugin(str(n), str(n), one, sha256="0") for n, one in enumerate(registers)]
    assert [plugin.name for plugin in plugins.used_by("a")] == ["0", "3", "4"]


def test_a_malformed_entry_of_a_manifest_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not loaded"):
        plugins.require([{}], tmp_path)
