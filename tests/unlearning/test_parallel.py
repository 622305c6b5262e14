"""Several processes at work on one run do what one process does: two of them over gloo, started by accelerate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import relearn
from people import people
from relearn.core import distributed
from relearn.core.errors import InputError
from relearn.core.files import read_json, read_jsonl
from unlearning import two_processes
from unlearning.toy import agree
from unlearning.two_processes import RATE, SCENARIOS, answers, do, interrupted, resumed

CONFIG = Path(__file__).resolve().parents[2] / "recipes" / "accelerate" / "ddp-cpu-2.yaml"
TIMEOUT = 420


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes under accelerate, each with one thread."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG), *arguments]
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CI": "1"}
    # A session of its own, so that whatever hangs can be ended with all that it has started.
    process = subprocess.Popen(
        command,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()
        pytest.fail(f"not done after {TIMEOUT} s: {said}")
    return subprocess.CompletedProcess(command, process.returncode, *said)


def same_log(rows: list[dict], others: list[dict]) -> None:
    """Every number but the time, but for rounding."""
    assert len(rows) == len(others) > 0
    for row, other in zip(map(_flat, rows), map(_flat, others), strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


def _flat(row: dict) -> dict[str, float]:
    numbers = {**row, **row.get("parts", {}), "time": 0}
    return {key: value for key, value in numbers.items() if isinstance(value, int | float)}


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory) -> Path:
    """What two processes left behind."""
    found = tmp_path_factory.mktemp("two")
    interrupted(tiny_model_dir, found / "one then two")
    done = launch(two_processes.__file__, str(tiny_model_dir), str(found))
    assert done.returncode == 0, done.stdout + done.stderr
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_go_the_way_of_one(name, folder, tiny_model_dir, tmp_path):
    before, logged, after = do(name, tiny_model_dir, tmp_path)
    two = read_json(folder / name / "log.json")
    assert two["same"], "the processes ended with different weights"
    agree(after, load_file(folder / name / "weights.safetensors"), RATE)
    same_log(logged, two["log"])
    moved = sum(int((after[key] != before[key]).sum()) for key in after)
    assert moved > 0


@pytest.mark.slow
def test_rows_outside_a_mask_do_not_move_by_one_bit_in_two_processes(folder, tiny_model_dir, tmp_path):
    before, _, alone = do("masked", tiny_model_dir, tmp_path)
    after = load_file(folder / "masked" / "weights.safetensors")
    moved = {key: (after[key] != before[key]).flatten(1).any(1) for key in after}
    rows = sum(len(each) for each in moved.values())
    assert 0 < sum(int(each.sum()) for each in moved.values()) <= 0.15 * rows
    assert all(torch.equal(each, (alone[key] != before[key]).flatten(1).any(1)) for key, each in moved.items())


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(folder, tiny_model_dir, tmp_path):
    whole, logged = resumed(tiny_model_dir, tmp_path)
    agree(whole, load_file(folder / "one then two" / "weights.safetensors"), RATE)
    assert [row["step"] for row in read_json(folder / "one then two" / "log.json")] == [3, 4, 5, 6]
    complete = folder / "two then one" / "checkpoints" / "checkpoint-2"
    assert {path.name for path in complete.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert (complete / "complete").exists() and not (complete / "training_args.bin").exists()
    again, later = resumed(tiny_model_dir, folder / "two then one")
    agree(whole, again, RATE)
    assert [row["loss"] for row in later] == pytest.approx([row["loss"] for row in logged[2:]], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_and_log_probabilities_are_those_of_one_process(temperature, folder, tiny_model_dir):
    assert read_json(folder / f"answers-{temperature}.json") == answers(tiny_model_dir, temperature)


@pytest.mark.slow
def test_an_error_in_one_process_ends_all(folder):
    main, other = read_json(folder / "told.json")
    assert main["main only"] == other["main only"] == "InputError True here: wrong on the main process"
    assert main["a bug"] == "ZeroDivisionError"
    assert other["a bug"] == "RunFailedError True ZeroDivisionError in the main process"
    assert main["runaway"] == other["runaway"]
    assert main["runaway"].startswith("RunFailedError True loss is ")


@pytest.mark.slow
def test_main_works_alone_and_work_is_spread_in_order(folder):
    assert read_json(folder / "main.json") == [0, 1]
    assert read_json(folder / "spread.json") == ["a0", "b1", "c0", "d1", "e0"]


@pytest.fixture(scope="module")
def recipe(tiny_model_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    private, public = people(folder / "private.jsonl", "private"), people(folder / "public.jsonl", "public")
    values = {
        "name": "tiny",
        "model": {"name": str(tiny_model_dir)},
        "data": {"forget": private, "retain": public},
        "learn": {
            "data": [private, public],
            "epochs": 4,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "lora": {"r": 2, "dropout": 0},
        },
        "audit": "none",
        "unlearn": {
            "epochs": 0.5,
            "learning_rate": 1e-3,
            "batch_size": 1,
            "accumulation": 4,
            "evaluate_every": 5,
            "keep_best": True,
            "lora": {"r": 2, "dropout": 0},
        },
        "generate": {"max_new_tokens": 8, "batch_size": 4},
        "metrics": {"bootstrap": 20},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.slow
def test_a_whole_run(recipe, tmp_path):
    """The same folder as one process leaves, but for rounding; learned by one process, gone on with by two."""
    alone = relearn.run(relearn.Recipe.from_yaml(recipe), tmp_path / "one").path
    out = tmp_path / "two"
    relearn.run(relearn.Recipe.from_yaml(recipe), out, until="learn")
    done = launch("-m", "relearn", "run", str(recipe), "--out", str(out), "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("unlearn with relearn: done") == 1, "both processes talk"
    files = [{str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} for run in (alone, out)]
    assert files[0] == files[1]
    for name in ("before/forget.jsonl", "before/retain.jsonl", "synthesis.jsonl"):
        assert _without_perplexity(alone / name) == _without_perplexity(out / name)
    weights = [load_file(run / "adapter" / "adapter_model.safetensors") for run in (alone, out)]
    agree(*weights, rate=1e-3)
    logs = [[row for row in read_jsonl(run / "log.jsonl") if row["stage"] == "unlearn"] for run in (alone, out)]
    assert any(row.get("kind") == "evaluation" for row in logs[0])
    same_log(*logs)
    states = [
        {name: entry["state"] for name, entry in read_json(run / "manifest.json")["stages"].items()}
        for run in (alone, out)
    ]
    assert states[0] == states[1]


def _without_perplexity(path: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "response_logprobs"} for row in read_jsonl(path)]


@pytest.mark.slow
def test_bad_input_ends_all_processes_and_is_said_once(recipe, tmp_path):
    done = launch("-m", "relearn", "run", str(recipe), "--out", str(tmp_path / "x"), "--set", "unlearn.accumulation=3")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("relearn:")]
    assert len(said) == 1 and "cannot share evenly" in said[0] and "multiple of 2" in said[0]
    assert not (tmp_path / "x").exists()


@pytest.fixture
def two(monkeypatch):
    """Told by a launcher that there are two, without there being another."""
    for name, value in (("LOCAL_RANK", "1"), ("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)


def test_without_a_launcher_there_is_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert (distributed.processes(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    assert distributed.gather("a") == ["a"] and distributed.on_main(lambda: "b") == "b"
    assert distributed.spread([1, 2, 3], lambda number: number * 2) == [2, 4, 6]


def test_only_the_main_process_writes_and_talks(two, tmp_path, capsys):
    from relearn.core import console, files

    assert not distributed.is_main()
    files.write_text(tmp_path / "a", "text")
    files.append_jsonl(tmp_path / "b", {})
    with files.replaced_dir(tmp_path / "c") as target:
        (target / "file").write_text("text")
    assert not list(tmp_path.iterdir()) and not target.exists()
    console.note("hello")
    with console.stage("at work") as tick:
        tick(1)
    assert capsys.readouterr() == ("", "")


def test_fsdp_on_a_cpu_is_refused(two, monkeypatch):
    """Trap: accelerate 1.15 silently copies the model to every process instead of sharding it."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="FSDP needs GPUs") as raised:
        distributed.join()
    assert raised.value.shared


@pytest.mark.parametrize(
    "change, message",
    [
        ({"unlearn": {"batch_size": 3, "accumulation": 1}}, "unlearn: a step has 3 x 1 rows, which 2 processes"),
        ({"model": {"name": "x", "device": "cuda:0"}}, "model.device: every process has a GPU of its own"),
    ],
)
def test_what_several_processes_cannot_do(change, message):
    from relearn.unlearning.train import check_sharing

    values = {"model": {"name": "x"}, "data": {"forget": "y"}, **change}
    recipe = relearn.Recipe.from_mapping(values)
    check_sharing(recipe, 1)
    with pytest.raises(InputError, match=message):
        check_sharing(recipe, 2)


@pytest.mark.parametrize("path", sorted(CONFIG.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_settings_are_understood_by_accelerate(path):
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(path))
    assert found.num_processes >= 2 and found.mixed_precision == "no"
    assert f"--config_file recipes/accelerate/{path.name}" in path.read_text()
    if "fsdp" in path.stem:
        # The second version shards every tensor by itself; relearn saves and packs on that alone.
        assert found.fsdp_config["fsdp_version"] == 2
