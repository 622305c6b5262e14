"""The demo as a stranger meets it: the real model, the whole command, the promised numbers, a kill in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relearn.core.files import read_json, read_jsonl, write_json
from relearn.leakage.detector import LeakIndex
from relearn.workflows.demo.demo import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
REDONE = ("unlearn", "after", "perplexity", "scores", "report")


def start(out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "relearn", "demo", "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The demo, run once; it ends by naming its report."""
    out = tmp_path_factory.mktemp("demo") / "run"
    process = start(out)
    said, _ = process.communicate(timeout=2000)
    assert process.returncode == 0, said
    assert said.strip().splitlines()[-1] == f"report: {out / 'report.html'}"
    assert "minutes on this machine" in said
    return out


def value(demo: Path, when: str, part: str, name: str) -> float:
    return read_json(demo / "summary.json")[when][part][name]["value"]


@pytest.mark.parametrize("part", ["forget", "forget_heldout"])
def test_private_facts_were_known_and_are_forgotten(demo, part):
    assert value(demo, "before", part, "kfr") <= 0.10
    assert value(demo, "after", part, "kfr") >= 0.90
    assert value(demo, "after", part, "gibberish") == 0


@pytest.mark.parametrize("part", ["retain", "retain_heldout"])
def test_public_facts_are_kept_and_the_model_speaks_as_before(demo, part):
    assert value(demo, "after", part, "krr") >= 0.90 * value(demo, "before", part, "krr")
    assert value(demo, "after", part, "ls") >= 0.95 * value(demo, "before", part, "ls")


def test_answers_leak_next_to_nothing_and_stay_with_the_subject(demo):
    """The leak check is stricter than KFR: a month or a town left over counts."""
    private = {record.id: record for record in load("private")}
    index = LeakIndex(list(private.values()))
    rows = [row for name in ("forget", "probes_forget") for row in read_jsonl(demo / "after" / f"{name}.jsonl")]
    leaks = [
        row["response"]
        for row in rows
        if index.check(row["question"], row["response"], record_id=row["id"].removesuffix("-probe"))
    ]
    assert len(leaks) <= 0.15 * len(rows), leaks
    named = [row for row in rows if set(row["subject"].split()) & set(row["response"].replace("'s", "").split())]
    assert len(named) >= 0.9 * len(rows)


def test_no_private_answer_is_in_the_training_rows(demo, tmp_path):
    files = Path(__file__).parents[3] / "src" / "relearn" / "workflows" / "demo" / "data"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "relearn",
            "verify",
            str(demo / "synthesis.jsonl"),
            "--against",
            str(files / "private.jsonl"),
            "--out",
            str(tmp_path / "flagged.jsonl"),
            "--strict",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_killed_while_unlearning_and_resumed_ends_the_same(demo, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(demo, again)
    manifest = read_json(again / "manifest.json")
    stages = {name: entry for name, entry in manifest["stages"].items() if name not in REDONE}
    write_json(again / "manifest.json", {**manifest, "stages": stages})
    for name in ("adapter", "after"):
        shutil.rmtree(again / name)
    process = start(again)
    while process.poll() is None and not list(again.glob("checkpoints/unlearn/*/complete")):
        time.sleep(0.2)
    time.sleep(3)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = start(again)
    said, _ = process.communicate(timeout=2000)
    assert process.returncode == 0, said
    for name in ("adapter/adapter_model.safetensors", "after/probes_forget.jsonl", "summary.json"):
        assert (again / name).read_bytes() == (demo / name).read_bytes(), name
    steps = [row["step"] for row in map(json.loads, (again / "log.jsonl").open()) if row.get("stage") == "unlearn"]
    assert len(steps) > len(set(steps)), "the resumed run went back to a checkpoint"


def test_ask_answers_before_and_after(demo):
    done = subprocess.run(
        [sys.executable, "-m", "relearn", "ask", str(demo), "Where does Marta Lindqvist live?"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    assert "12 Elm Street" in done.stdout
