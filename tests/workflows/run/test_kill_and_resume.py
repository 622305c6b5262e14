"""A run killed at any moment and resumed ends with the same files as one left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from people import people

STAGES = ["learn", "learn", "before", "before", "synthesis", "unlearn", "unlearn", "after", "scores", "report"]
KILLS = int(os.environ.get("RELEARN_KILLS", "10"))
CLOCKED = {"manifest.json", "log.jsonl", "report.json", "report.html", "model_card.md", "cache.sqlite", "lock"}


@pytest.fixture(scope="module")
def recipe(tiny_model_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    private, public = people(folder / "private.jsonl", "private"), people(folder / "public.jsonl", "public")
    values = {
        "name": "tiny",
        "model": {"name": str(tiny_model_dir)},
        "data": {"forget": private, "retain": public, "probes": {"forget": people(folder / "probe.jsonl", "probe")}},
        "learn": {"data": [private, public], "epochs": 40, "batch_size": 4, "lora": {"r": 4}},
        "unlearn": {
            "epochs": 3,
            "learning_rate": 1e-3,
            "checkpoint_every": 7,
            "evaluate_every": 40,
            "lora": {"r": 4, "dropout": 0.1},
        },
        "generate": {"max_new_tokens": 24, "batch_size": 4},
        "metrics": {"bootstrap": 50},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(recipe: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "relearn", "run", str(recipe), "--out", str(out)]
    if (out / "recipe.yaml").exists():
        command.append("--resume")
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CI": "1"},
        preexec_fn=_listen_to_interrupts,
    )


def _listen_to_interrupts() -> None:
    """Tests that run in the background of a shell inherit that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(recipe: Path, out: Path) -> None:
    process = start(recipe, out)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


def stage_reached(out: Path, stage: str) -> bool:
    try:
        return stage in json.loads((out / "manifest.json").read_text())["stages"]
    except (OSError, ValueError, KeyError):
        return False


def kill_in(recipe: Path, out: Path, stage: str, delay: float) -> None:
    process = start(recipe, out)
    while process.poll() is None and not stage_reached(out, stage):
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def contents(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in CLOCKED)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_kills_spread_over_all_stages(recipe, tmp_path):
    """Ten kills per run; RELEARN_KILLS asks for more, in as many runs as that takes."""
    undisturbed = tmp_path / "undisturbed"
    finish(recipe, undisturbed)
    expected = contents(undisturbed)
    assert {"adapter/adapter_model.safetensors", "start/adapter_model.safetensors", "summary.json"} <= set(expected)
    for number in range(max(1, KILLS // len(STAGES))):
        disturbed, rng = tmp_path / f"disturbed-{number}", random.Random(7 + number)
        for stage in STAGES:
            kill_in(recipe, disturbed, stage, rng.uniform(0, 0.6))
        finish(recipe, disturbed)
        found = contents(disturbed)
        assert set(expected) == set(found)
        assert [name for name in expected if expected[name] != found[name]] == []
        assert not list(disturbed.rglob(".*"))
        shutil.rmtree(disturbed)


@pytest.mark.slow
def test_interrupt_exits_130_with_one_line_on_how_to_go_on(recipe, tmp_path):
    process = start(recipe, tmp_path / "run")
    while process.poll() is None and not stage_reached(tmp_path / "run", "unlearn"):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1] == "relearn: interrupted; the same command with --resume continues"
