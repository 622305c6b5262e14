"""The benchmarks count and compare what they say they do. No times are asserted here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import check  # noqa: E402
import floor  # noqa: E402
import loss_memory  # noqa: E402
import masks  # noqa: E402
import steps  # noqa: E402
import train_step  # noqa: E402
import workload  # noqa: E402

from relearn.engine.forward import TokenRow  # noqa: E402

CPU = torch.device("cpu")
# Forget rows of 6 and 4 tokens, retain rows of 5 and 7; the first three tokens are everyone's.
FORGET = (TokenRow("f0", (1, 2, 3, 4, 5, 6), 4), TokenRow("f1", (1, 2, 3, 9), 3))
RETAIN = (TokenRow("r0", (1, 2, 3, 7, 8), 4), TokenRow("r1", (1, 2, 3, 7, 9, 9, 9), 5))
ROWS = workload.Rows(FORGET, RETAIN)
HEADLINE = {"speedup_over_padded", "memory_over_padded", "time_over_floor", "speedup_over_dynamic"}


@pytest.fixture(scope="module")
def bench() -> train_step.Bench:
    return train_step.load("llama-tiny", "cpu", steps.NAMES)


def test_rows_padded_on_the_left_end_at_512():
    padded = steps.pad_left(FORGET, CPU)
    assert padded["input_ids"].shape == (2, 512)
    assert padded["input_ids"][1, -4:].tolist() == [1, 2, 3, 9]
    assert padded["attention_mask"].sum(1).tolist() == [6, 4]
    assert padded["labels"][0, -6:].tolist() == [-100, -100, -100, -100, 5, 6]
    assert (padded["labels"][:, :506] == -100).all()


def test_rows_padded_on_the_right_are_as_long_as_the_longest():
    padded = steps.pad_right(FORGET, CPU)
    assert padded["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 0, 0]]
    assert padded["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]
    assert padded["labels"].tolist() == [[-100] * 4 + [5, 6], [-100] * 3 + [9, -100, -100]]


def test_tokens_computed_are_counted(bench):
    """Four rows of 22 tokens, 6 of them answers (2 + 1 forget, 1 + 2 retain), all beginning with [1, 2]."""
    found = {name: steps.make(name, bench.model, bench.second).computed(ROWS) for name in steps.NAMES}
    assert asdict(found["padded"]) == asdict(workload.Computed(4 * 512, 2 * 512, 4 * 512, 2 * 512))
    # Forget rows as long as 6, retain rows as long as 7.
    assert asdict(found["dynamic"]) == asdict(workload.Computed(12 + 14, 14, 12 + 14, 14))
    # The shortest prompt has 3 tokens, of which the last predicts an answer: two tokens are shared by four rows, and
    # three by the retain rows alone, whose shortest prompt has 4.
    assert asdict(found["floor"]) == asdict(workload.Computed(22 - 3 * 2, 12 - 3, 6, 3))
    assert (found["relearn"].head_trained, found["relearn"].head_reference) == (6, 3)
    assert found["planned"].reference == 0


def test_floating_point_operations_by_formula(bench):
    """llama-tiny: a layer has q and o 64 x 64, k and v 64 x 32, three of 64 x 128; rank 16 adapters on all of them."""
    trunk = 3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    adapter = 3 * 16 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    head = 64 * 512
    computed = {"trained": 10, "reference": 4, "head_trained": 3, "head_reference": 2}
    expected = 10 * (4 * trunk + 6 * adapter) + 4 * 2 * trunk + 3 * 4 * head + 2 * 2 * head
    assert train_step.flops(bench.model, computed) == expected


def test_the_steps_do_the_same_work(bench):
    for form in workload.FORMS:
        found = check.check(bench, form, 4, steps.NAMES)
        assert found["agree"]
        assert found["losses"]["relearn"]["klr"] > 1e-4, "the check has to see a divergence"
        assert {"relearn gradients", "planned gradients", "padded reference logits"} <= set(found["apart"])
    assert not any(weight.any() for name, weight in bench.model.named_parameters() if "lora_B" in name)


def test_a_step_that_does_other_work_is_found_out(bench, monkeypatch):
    honest = steps.Relearn.__call__
    monkeypatch.setattr(
        steps.Relearn, "__call__", lambda self, rows: honest(self, workload.Rows(rows.forget[:3], rows.retain[:3]))
    )
    with pytest.raises(check.NotEqualError, match="relearn"):
        check.check(bench, "bare", 4, steps.NAMES)


@pytest.mark.parametrize("limit", [8, floor.NO_LIMIT])
@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize("attention", ["rows", "mask"])
def test_every_floor_sees_each_row_alone(bench, attention, sharing, limit):
    rows = workload.random_rows(512, "chat", "forget", 5)
    own = floor.Floor(bench.model, attention, sharing, limit=limit)
    with torch.no_grad():
        for row, logits in zip(rows, own.answers(tuple(rows)).split([row.answer_tokens for row in rows]), strict=True):
            alone = bench.model(input_ids=torch.tensor([row.ids])).logits[0, row.answer_start - 1 : -1]
            assert torch.allclose(logits, alone, atol=1e-5)


def test_the_fused_adapter_leaves_the_model_as_it_was(bench):
    rows = bench.rows("bare", 2, 1)[0]
    own = floor.Floor(bench.model, fused=True)
    own.prepare(rows)
    with own.around():
        own(rows)
    assert not any("forward" in vars(module) for module in bench.model.modules())


def test_the_fastest_floor_is_taken(bench):
    """A clock that says the second candidate is the fastest, and fusing makes it slower."""
    times = iter([5.0, 2.0, 4.0, 3.0])
    rows = bench.rows("bare", 2, 1)[0]
    best, table = floor.fastest(bench.model, rows, 1, lambda work: next(times))
    assert (best.attention, best.sharing, best.fused) == ("rows", False, False)
    assert [row["seconds"] for row in table] == [5.0, 2.0, 4.0, 3.0]
    assert table[-1] == {"attention": "rows", "sharing": False, "fused": True, "limit": None, "seconds": 3.0}


def test_seconds_are_medians_of_each_batch_then_the_mean_over_batches():
    step = {"times": [1.0, 9.0, 2.0, 5.0, 3.0], "batch": [0, 1, 0, 1, 0]}
    assert train_step.seconds(step) == (2.0 + 7.0) / 2
    assert train_step.seconds(step, min) == (1.0 + 5.0) / 2


def test_the_headline_is_of_the_right_cells():
    def cell(form, size, **times):
        made = {name: {"seconds": {"median": time, "best": time / 2}} for name, time in times.items()}
        return {"form": form, "batch": size, "steps": made}

    cells = [
        cell("bare", 1, padded=1, dynamic=1, relearn=1, planned=1, floor=1),
        cell("bare", 4, padded=42.0, dynamic=3.0, relearn=2.5, planned=2.1, floor=2.0, mixed=1.5, mixed_floor=1.2),
        cell("chat", 4, padded=9.0, dynamic=4.2, relearn=3.5, planned=3.0, floor=2.9, mixed=2.0),
    ]
    for name, size in (("padded", 1000), ("planned", 150), ("mixed", 100), ("relearn", 160)):
        cells[1]["steps"][name]["memory"] = {"peak_bytes": size}
    found = train_step.headline(cells, 4)

    def ratios(padded, memory, floor, dynamic):
        values = {"speedup_over_padded": padded, "memory_over_padded": memory, "time_over_floor": floor}
        return pytest.approx({**values, "speedup_over_dynamic": dynamic})

    assert found["float32"] == ratios(20, 0.15, 1.05, 1.4)
    assert found["float32_no_reuse"] == ratios(16.8, 0.16, 1.25, 1.2)
    assert found["bfloat16"] == ratios(28, 0.1, 1.25, 2.1)
    assert {key: found[key] for key in HEADLINE} == found["bfloat16"] and found["measured_as"] == "mixed"
    cells[1]["steps"]["mixed"]["seconds"]["median"] = 2.2
    found = train_step.headline(cells, 4)
    assert {key: found[key] for key in HEADLINE} == found["float32"] and found["measured_as"] == "planned"
    del cells[1]["steps"]["padded"]
    assert train_step.headline(cells, 4)["speedup_over_padded"] is None


def test_rows_of_a_chat_begin_alike_and_batches_go_on():
    batches = workload.draw("llama-tiny", None, "chat", 4, 3)
    assert [len(rows.all) for rows in batches] == [8, 8, 8]
    assert len({row.id for rows in batches for row in rows.all}) == 24
    assert workload.common_beginning([row for rows in batches for row in rows.all]) >= 33
    assert workload.common_beginning(FORGET) == 2


def test_without_data_there_is_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.delenv("RELEARN_DATA", raising=False)
    for main in (train_step.main, masks.main):
        assert main([]) == 2
        said = capsys.readouterr().err
        assert "RELEARN_DATA" in said and said.count("\n") == 1


def test_everything_is_written_down(tmp_path, monkeypatch):
    monkeypatch.setattr(train_step, "peak_in_process", lambda *_: {"peak_bytes": 1, "held_before": 1, "over_held": 0})
    out = tmp_path / "found.json"
    wanted = ["--model", "llama-tiny", "--quick", "--rounds", "1", "--peak-tflops", "1", "--out", str(out)]
    assert train_step.main(wanted) == 0
    found = json.loads(out.read_text())
    assert set(found) >= HEADLINE and all(isinstance(found[key], float) for key in HEADLINE)
    assert found["machine"]["torch"] == torch.__version__
    chat, bare = found["cells"]
    assert set(bare["steps"]) == set(steps.NAMES)
    assert {"dynamic", "planned", "mixed"} <= set(chat["steps"])
    for step in bare["steps"].values():
        assert len(step["times"]) == len(step["cpu_times"]) == len(step["batch"]) >= 1
        assert step["share_of_peak_computed"] > 0
    # In a round the padded step is done once and the others several times.
    times = [len(bare["steps"][name]["times"]) for name in ("padded", "relearn")]
    assert times == [1, train_step.QUICK.inner]


def test_memory_of_a_process_is_measured(project_root):
    """In a process of its own, as in the benchmarks: one that has freed much gives a new block what it still holds."""
    code = (
        "import torch, workload\n"
        "workload.reset_peak('cpu')\n"
        "held = workload.resident_bytes('cpu')\n"
        "block = torch.ones(50 << 20, dtype=torch.uint8)\n"
        "print(workload.peak_bytes('cpu') - held)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project_root / "benchmarks", capture_output=True, text=True, check=True
    )
    assert 40 << 20 < int(done.stdout) < 80 << 20


@pytest.mark.parametrize("loss", loss_memory.LOSSES)
def test_losses_over_full_logits_are_the_same_losses(loss):
    micro = loss_memory.rows(128, 6, 700, loss)
    step = loss_memory.Step(loss_memory.small_llama(700, 64), loss, micro)
    with torch.no_grad():
        for name, weight in step.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    own, full = [], []
    for way, gradients in (("relearn", own), ("full", full)):
        step.model.zero_grad()
        value = getattr(step, way)(micro)
        gradients += [value, *(weight.grad for weight in step.model.parameters() if weight.requires_grad)]
    assert sum(row.answer_tokens for row in (*micro.forget, *micro.retain)) == 128
    for one, other in zip(own, full, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", masks.KINDS)
def test_a_masked_training_moves_what_it_may(bench, kind):
    model = bench.model
    fresh = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    batches = [
        masks.with_step_sizes([masks.MicroBatch(rows.forget, rows.retain)])[0] for rows in bench.rows("bare", 2, 3)
    ]
    try:
        found = masks.training(model, fresh, batches, kind)
    finally:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in fresh:
                    weight.copy_(fresh[name])
    assert len(found["each"]) == 3 and found["both"] >= found["steps"] > 0
    assert found["weights_that_moved"] <= found["rows_that_may_move"] + 0.05
    assert (found["rows_that_may_move"] < 1) == (kind != "none")


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_full_logits_of_a_large_vocabulary_do_not_fit_where_ours_do():
    limit = ("--loss", "nll", "--answers", "1024", "--prompt", "16", "--limit", str(512 << 20))
    for way, fits in (("relearn", True), ("full", False)):
        done = run("loss_memory.py", "--one", way, *limit)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["fits"] is fits


@pytest.mark.slow
def test_the_demo_model_takes_less_memory_than_its_full_logits(data_dir, monkeypatch):
    monkeypatch.setenv("RELEARN_DATA", str(data_dir))
    peaks = []
    for name in ("relearn", "dynamic"):
        done = run("train_step.py", "--peak-of", name, "--sizes", "2", "--form", "chat")
        assert done.returncode == 0, done.stderr
        peaks.append(json.loads(done.stdout.splitlines()[-1])["over_held"])
    assert peaks[0] < peaks[1]
