"""`relearn analyze` on finished runs of a tiny model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import relearn
from people import people
from relearn.cli import run_command
from relearn.core.files import read_json
from relearn.core.ownership import purge
from relearn.report.build import build_report
from relearn.report.html import render


@pytest.fixture(scope="module")
def run(tiny_model_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("analysed")
    private, public = people(folder / "private.jsonl", "private", 3), people(folder / "public.jsonl", "public", 3)
    values = {
        "model": {"name": str(tiny_model_dir)},
        "data": {"forget": private, "retain": public},
        "learn": {"data": [private, public], "epochs": 2, "lora": {"r": 2}},
        "audit": "none",
        "unlearn": {"method": "grad_diff", "epochs": 8, "learning_rate": 3e-2, "lora": {"r": 2}, "trajectory": 4},
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
    found = read_json(run / "analysis/lens.json")
    lens = found["models"]
    assert found["lens"] == "logit" and "fit" not in found and set(lens) == {"start", "run"}
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


def test_the_training_is_looked_back_at(run):
    assert run_command(["analyze", str(run), "--facts", "1"]) == 0
    found = read_json(run / "analysis/dynamics.json")["run"]
    steps = found["seesaw"]["step"]
    assert steps[0] == 0 and steps[1] == 4 and len(found["seesaw"]["forget"]["true"]) == len(steps)
    assert len(set(found["seesaw"]["forget"]["answer"])) > 1
    assert set(found["loss"]["parts"]) == {"ga", "gdr"} and found["notes"] == []
    for picture in ("seesaw", "loss"):
        assert (run / f"analysis/{picture}.svg").read_text().startswith("<svg")
    page, cosine = (run / "report.html").read_text(), found["alignment"]["end"]["cosine"]
    assert f"and of {cosine:.2f} at its end" in page and "run: the first token of answers to be forgotten" in page
    assert "run: the first token" not in render(build_report(run, redact=True))


def test_a_run_whose_data_is_gone_is_still_looked_into(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    text = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(text.replace("private.jsonl", "gone.jsonl"))
    assert run_command(["analyze", str(copy), "--facts", "1"]) == 0
    found = read_json(copy / "analysis/dynamics.json")["copy"]
    assert found["alignment"] is None and "no such file" in found["notes"][0] and found["seesaw"]


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


def test_a_tuned_lens_is_fitted_on_the_start_model_and_reads_every_run(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    text = tmp_path / "own.txt"
    text.write_text("One word follows another, and then a third one. " * 400)
    command = ["analyze", str(copy), str(run), "--facts", "2", "--lens", "tuned", "--lens-text", str(text)]
    assert run_command(command) == 0
    found = read_json(copy / "analysis/lens.json")
    fit = found["fit"]
    assert found["lens"] == "tuned" and fit["text"] == "own.txt" and set(found["models"]) == {"start", "copy", "run"}
    # The same model twice under the same translators says the same.
    assert found["models"]["copy"] == found["models"]["run"] != found["models"]["start"]
    logit, tuned = fit["held_out_kl"]["logit"], fit["held_out_kl"]["tuned"]
    assert len(logit) == 3 and all(after < before for before, after in zip(logit[:-1], tuned[:-1], strict=True))
    kept = copy / "analysis/tuned_lens/translators.safetensors"
    written = kept.stat().st_mtime_ns
    assert run_command(command) == 0 and kept.stat().st_mtime_ns == written
    assert (copy / "analysis/lens_fit.svg").read_text().startswith("<svg")
    report, hidden = build_report(copy), build_report(copy, redact=True)
    for one in (report, hidden):
        assert any("tuned lens, the same for all models" in line for line in one["inside"]["findings"])
        assert one["inside"]["lines"]["lens_fit"] == fit["held_out_kl"]
    assert "analysis" in purge(copy, really=True) and not kept.exists()
    assert run_command(["analyze", str(run), "--lens-text", str(text)]) == 2
    assert "add --lens tuned" in capsys.readouterr().err


def test_the_report_shows_it_and_without_texts_when_redacted(run):
    run_command(["analyze", str(run), "--facts", "2"])
    page = (run / "report.html").read_text()
    assert 'id="inside"' in page and "circuit of the answer" in page
    report = build_report(run)
    assert any("median rank" in line for line in report["inside"]["findings"])
    hidden = build_report(run, redact=True)
    assert hidden["inside"]["circuits"] == [] and "run" not in hidden["inside"]["lines"]["lens"]
    assert "circuit of the answer" not in render(hidden) and 'id="inside"' in render(hidden)
