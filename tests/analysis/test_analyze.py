"""`relearn analyze` on finished runs of a tiny model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import relearn
from relearn.cli import run_command
from relearn.report.build import build_report
from relearn.report.html import render
from relearn.rundir import read_json
from test_kill_and_resume import people


@pytest.fixture(scope="module")
def run(tiny_model_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("analysed")
    private, public = people(folder / "private.jsonl", "private", 3), people(folder / "public.jsonl", "public", 3)
    values = {
        "model": {"name": str(tiny_model_dir)},
        "data": {"forget": private, "retain": public},
        "learn": {"data": [private, public], "epochs": 2, "lora": {"r": 2}},
        "unlearn": {"method": "grad_diff", "epochs": 8, "learning_rate": 3e-2, "lora": {"r": 2}},
        "generate": {"max_new_tokens": 4},
        "metrics": {"bootstrap": 20},
    }
    return relearn.run(relearn.Recipe.from_mapping(values), folder / "run").path


def test_numbers_stand_beside_every_picture(run):
    assert run_command(["analyze", str(run), "--prompt", "Where does she live?", "--facts", "2"]) == 0
    names = {path.name for path in (run / "analysis").iterdir()}
    assert names >= {
        "candidates.json",
        "lens.json",
        "patching.json",
        "adapter.json",
        "lens.svg",
        "lens_kl.svg",
        "adapter.svg",
    }
    lens = read_json(run / "analysis/lens.json")
    assert set(lens) == {"start", "run"}
    # Two layers and what goes into the first.
    assert all(len(lens[model][name]) == 3 for model in lens for name in ("logprob", "rank", "kl", "kl_first"))
    assert lens["run"]["logprob"][-1] < lens["start"]["logprob"][-1]
    found = read_json(run / "analysis/candidates.json")["models"]
    assert len(found["start"]) in (2, 3) and set(found["start"]) == set(found["run"])
    patching = read_json(run / "analysis/patching.json")["run"]
    assert patching["rows"] > 0 and len(patching["share"]) == 3
    assert read_json(run / "analysis/adapter.json")["layers"]["run"]["layer"] == [0, 1]
    svg = (run / "analysis/lens.svg").read_text()
    assert svg.startswith("<svg") and "script" not in svg


def test_a_run_beside_itself_overlaps_wholly(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    assert run_command(["analyze", str(copy), str(run), "--facts", "1"]) == 0
    found = read_json(copy / "analysis/adapter.json")["overlap"]
    assert [row["runs"] for row in found] == [["run", "run 2"]]
    assert found[0]["overlap"] == pytest.approx(1, abs=1e-3)


def test_other_start_models_are_refused(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "other")
    text = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(text.replace("epochs: 2.0", "epochs: 3.0", 1))
    assert run_command(["analyze", str(run), str(copy)]) == 2
    assert "different models" in capsys.readouterr().err


def test_circuits_are_told_for_every_model_and_drawn(run):
    assert run_command(["analyze", str(run), "--facts", "2"]) == 0
    found = read_json(run / "analysis/circuits.json")
    assert found["layers"] == 2 and set(found["models"]) == {"start", "run"}
    for row, at in found["models"]["run"]["questions"].items():
        start = found["models"]["start"]["questions"][row]
        for threshold in ("0.06", "0.08"):
            own, other = ({tuple(edge[:4]) for edge in side[threshold]["edges"]} for side in (at, start))
            assert own and all(edge[4] >= float(threshold) for edge in at[threshold]["edges"])
            assert {tuple(edge) for edge in at[threshold]["lost"]} == other - own
            assert {tuple(edge) for edge in at[threshold]["gained"]} == own - other
        assert len(at["0.08"]["edges"]) <= len(at["0.06"]["edges"])
    assert len(found["models"]["run"]["mean"]["0.08"]["per_layer"]) == 2
    assert (run / "analysis/circuit_1_1.svg").read_text().startswith("<svg")


def test_the_report_shows_it_and_without_texts_when_redacted(run):
    run_command(["analyze", str(run), "--facts", "2"])
    page = (run / "report.html").read_text()
    assert 'id="inside"' in page and "circuit of the answer" in page
    report = build_report(run)
    assert any("median rank" in line for line in report["inside"]["findings"])
    hidden = build_report(run, redact=True)
    assert hidden["inside"]["circuits"] == [] and "run" not in hidden["inside"]["lines"]["lens"]
    assert "circuit of the answer" not in render(hidden) and 'id="inside"' in render(hidden)
