"""`relearn audit --before --after --forget`: two models and no run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from people import people
from relearn.audits.attack import AUDITS
from relearn.cli import run_command
from relearn.core.run_dir import read_json
from tiny import build_tiny_model

FAST = ["--set", "generate.max_new_tokens=4", "--set", "metrics.bootstrap=20"]
SOME = "precision,hints,prefix,topk,membership,choice,extraction,probe"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model_dir) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(tiny_model_dir, folder / "before")
    build_tiny_model(folder / "after", seed=1)
    people(folder / "forget.jsonl", "private", 4)
    people(folder / "retain.jsonl", "public", 3)
    return folder


def command(place: Path, out: Path, *more: str, attacks: str = SOME) -> list[str]:
    return [
        "audit",
        "--before",
        str(place / "before"),
        "--after",
        str(place / "after"),
        "--forget",
        str(place / "forget.jsonl"),
        "--out",
        str(out),
        "--attacks",
        attacks,
        *FAST,
        *more,
    ]


@pytest.fixture(scope="module")
def audited(place) -> Path:
    out = place / "out"
    arguments = ("--retain", str(place / "retain.jsonl"), "--control", str(place / "before"))
    assert run_command(command(place, out, *arguments)) == 0
    return out


def test_everything_is_measured_and_the_page_is_written(audited):
    summary = read_json(audited / "audits/summary.json")
    assert set(summary) == {"plain", *SOME.split(",")}
    assert all(set(row) >= {"before", "after", "control"} for row in summary.values())
    assert len(read_json(audited / "audits/verdicts.json")) == sum(1 for _ in (audited.parent / "forget.jsonl").open())
    assert {row["verdict"] for row in read_json(audited / "audits/verdicts.json")} <= {
        "gone",
        "hidden",
        "there",
        "never_known",
    }
    assert read_json(audited / "audits/precision.json")["variants"]["bfloat16"]["krr"]["after"]["n"] > 0
    page = (audited / "report.html").read_text()
    assert "Does it hold?" in page and "Shown beside the verdicts" in page


def test_the_two_models_are_told_apart_and_the_same_one_is_the_same(audited):
    measures = read_json(audited / "audits/topk.json")["measures"]["tokens in top 50"]
    assert measures["start"] == measures["control"]
    extraction = read_json(audited / "audits/choice.json")["measures"]["right by likelihood"]
    assert extraction["start"]["n"] > 0


def test_a_second_call_asks_and_reads_nothing(audited, place, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("loaded again")

    monkeypatch.setattr("relearn.workflows.audit.load", refuse)
    arguments = ("--retain", str(place / "retain.jsonl"), "--control", str(place / "before"))
    assert run_command(command(place, audited, *arguments)) == 0


def test_without_kept_records_and_control_what_needs_them_is_not_measured(place, tmp_path):
    out = tmp_path / "bare"
    assert run_command(command(place, out, attacks="hints,membership,quantise,prefix")) == 0
    summary = read_json(out / "audits/summary.json")
    assert summary["membership"]["not_measured"] == "no retain set" and summary["membership"]["after"] == {}
    assert read_json(out / "audits/hints.json")["not_measured"] == "no retain set"
    assert summary["prefix"]["control"]["stated"]["value"] is None
    assert read_json(out / "audits/about.json")["control"] == "none was given"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda place: ("--control", str(place / "after")), "another control"),
        (lambda place: ("--before", str(place / "after")), "holds another evaluation"),
        (lambda place: ("--set", "seed=3"), "other settings"),
    ],
)
def test_another_model_is_refused_in_one_line(audited, place, capsys, change, said):
    arguments = command(place, audited, "--retain", str(place / "retain.jsonl"), "--control", str(place / "before"))
    new = list(change(place))
    if new[0] in arguments and new[0] != "--set":
        arguments[arguments.index(new[0]) + 1] = new[1]
    else:
        arguments += new
    assert run_command(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error


def test_a_changed_file_is_refused(audited, place, tmp_path, capsys):
    copy = shutil.copytree(place, tmp_path / "copy")
    out = tmp_path / "out"
    assert run_command(command(copy, out, attacks="plain")) == 0
    (copy / "forget.jsonl").write_text((copy / "forget.jsonl").read_text().replace("Lane", "Road"))
    assert run_command(command(copy, out, attacks="plain")) == 2
    assert "has changed" in capsys.readouterr().err


def test_a_base_model_that_a_folder_names_is_not_loaded(place, tmp_path, capsys):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/base"}))
    assert run_command(["audit", "--after-adapter", str(adapter), "--forget", str(place / "forget.jsonl")]) == 2
    error = capsys.readouterr().err
    assert "evil/base" in error and "not loaded without asking" in error
    both = shutil.copytree(place / "after", tmp_path / "both")
    shutil.copy(adapter / "adapter_config.json", both)
    arguments = command(place, tmp_path / "out")
    arguments[arguments.index("--after") + 1] = str(both)
    assert run_command(arguments) == 2
    assert "evil/base" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_run_takes_no_models(place, capsys):
    assert run_command(["audit", str(place), "--after", "x"]) == 2
    assert "own models" in capsys.readouterr().err


def test_every_attack_that_reads_says_which_number_it_shows(audited):
    for name in AUDITS:
        audit = AUDITS.get(name)
        if audit.measure:
            assert audit.headline, name
