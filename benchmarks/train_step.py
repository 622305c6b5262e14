"""How long a training step takes and how much memory, beside three other ways to do the same step.

    python benchmarks/train_step.py --out FILE.json            the whole table: batch 1, 4, 16, both row forms
    python benchmarks/train_step.py --quick --out FILE.json    batch 4, few repeats, within 180 s on two cores
    python benchmarks/train_step.py --device cuda --model llama-8b --peak-tflops 989 --out FILE.json

What is compared is said in steps.py and floor.py. All steps run in one process, one after the other, over and over, so
that whatever else the machine does hits them alike; peak memory is taken in a process of its own for each. Before
anything is timed the steps are checked against each other: logits, losses and gradients.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from check import NotEqualError, check
from floor import fastest
from steps import NAMES, make, padded_rows, second_copy
from workload import (
    DEMO,
    FORMS,
    LORA,
    MODELS,
    NoDataError,
    Rows,
    Step,
    answer_tokens,
    data_folder,
    draw,
    load_bare,
    machine,
    peak_bytes,
    reset_peak,
    resident_bytes,
    with_adapter,
    write,
)

QUICK_SECONDS = 180


@dataclass(frozen=True)
class Plan:
    """`rounds` over all steps; in each of them "padded", which takes twenty times as long, once (above its own batch
    size in the first round alone) and the others `inner` times. `batches` different micro-batches take turns.

    `floor_repeats`: how often each candidate for the floor is tried. `left_out`: steps not measured at a row form.
    `peaks`: the steps whose memory is measured, by row form.
    """

    sizes: tuple[int, ...]
    rounds: int
    inner: int
    batches: int
    floor_repeats: int
    left_out: dict[str, tuple[str, ...]]
    peaks: dict[str, tuple[str, ...]]


FULL = Plan((1, 4, 16), 4, 3, 4, 3, {}, dict.fromkeys(FORMS, NAMES))
# What the headline needs and no more.
QUICK = Plan(
    (4,), 2, 2, 1, 1, {"chat": ("padded", "relearn", "floor", "mixed_floor")}, {"bare": ("padded", "planned", "mixed")}
)


@dataclass(frozen=True)
class Bench:
    """The models all steps share."""

    name: str
    device: str
    model: Any
    second: Any
    tokenizer: Any
    padded_rows: int

    def make(self, name: str) -> Step:
        return make(name, self.model, self.second, self.padded_rows)

    def rows(self, form: str, size: int, count: int) -> list[Rows]:
        return draw(self.name, self.tokenizer, form, size, count)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if options.peak_of:
            print(json.dumps(peak(options, options.peak_of)))
            return 0
        found = measure(options)
    except NoDataError as error:
        print(f"train_step: {error}", file=sys.stderr)
        return 2
    except NotEqualError as error:
        print(f"train_step: the steps do not do the same work: {error}", file=sys.stderr)
        return 1
    if options.out:
        write(options.out, found)
    print(summary(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="write everything measured to this JSON file")
    parser.add_argument("--quick", action="store_true", help=f"batch 4 alone, within {QUICK_SECONDS} s on two cores")
    parser.add_argument("--model", choices=MODELS, default=DEMO, help="all but the demo model have random weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="float32 on cpu, bfloat16 on cuda")
    parser.add_argument("--sizes", type=int, nargs="+", help="batch sizes (forget rows, and as many retain rows)")
    parser.add_argument("--rounds", type=int, help="how often every step is measured")
    parser.add_argument("--steps", nargs="+", choices=NAMES, default=NAMES, help="measure only these")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--peak-tflops", type=float, help="the device's peak, for the share of it that is used")
    parser.add_argument("--padded-rows", type=int, help="rows of each kind that the padded step takes at once")
    parser.add_argument("--peak-of", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--form", choices=FORMS, default="bare", help=argparse.SUPPRESS)
    return parser


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything: checks, memory, times, and the ratios drawn from them."""
    started = time.perf_counter()
    plan = QUICK if options.quick else FULL
    sizes = tuple(options.sizes or plan.sizes)
    first = 4 if 4 in sizes else sizes[0]
    bench = load(options.model, options.device, options.steps, options.padded_rows)
    of = min(2, first) if options.quick else first
    checks = {form: check(bench, form, of, options.steps, quick=options.quick) for form in FORMS}
    cells = []
    for form, size in itertools.product(reversed(FORMS), sizes):
        names = [name for name in options.steps if name not in plan.left_out.get(form, ())]
        cells.append({"form": form, "batch": size, "steps": {name: {} for name in names}})
    for cell in cells:
        for name in plan.peaks.get(cell["form"], ()):
            if name in cell["steps"]:
                cell["steps"][name]["memory"] = peak_in_process(options, bench, cell["form"], cell["batch"], name)
    deadline = started + QUICK_SECONDS - 10 if options.quick else None
    for cell in cells:
        time_cell(bench, cell, plan, options.rounds or plan.rounds, deadline)
    describe(bench, cells, options.peak_tflops)
    return {
        **headline(cells, first),
        "model": options.model,
        "device": options.device,
        "quick": options.quick,
        "dtype": "float32" if options.device == "cpu" else "bfloat16",
        "lora": LORA.model_dump(),
        "check": checks,
        "cells": cells,
        "machine": machine(options.device),
        "seconds_in_all": round(time.perf_counter() - started, 1),
    }


def load(name: str, device: str, steps: Sequence[str], rows: int | None = None) -> Bench:
    """The models; `rows` is how many of each kind the padded step takes at once, by default as many as fit up to 4."""
    if name == DEMO:
        data_folder()
    bare, tokenizer = load_bare(name, device)
    second = second_copy(bare) if "padded" in steps else None
    return Bench(name, device, with_adapter(bare), second, tokenizer, rows or padded_rows(bare))


def time_cell(bench: Bench, cell: dict[str, Any], plan: Plan, rounds: int, deadline: float | None) -> None:
    """Add the times of all steps of a cell (a batch size and a row form), and what was in its rows."""
    batches = bench.rows(cell["form"], cell["batch"], plan.batches)
    cell["rows"] = describe_rows(batches)
    clock = stopwatch(bench)
    steps: dict[str, Step] = {}
    for name, found in cell["steps"].items():
        if name.endswith("floor"):
            steps[name], cell[f"{name}s"] = fastest(
                bench.model, batches[0], plan.floor_repeats, lambda work: clock(work)[0], mixed=name == "mixed_floor"
            )
        else:
            steps[name] = bench.make(name)
        for rows in batches:
            steps[name].prepare(rows)
        found |= {"computed": asdict(steps[name].computed(batches[0])), "times": [], "cpu_times": [], "batch": []}
    slowest = 0.0
    for turn in range(rounds):
        began = time.perf_counter()
        if turn and deadline and began + slowest > deadline:
            break
        for inner in range(plan.inner):
            number = (turn * plan.inner + inner) % len(batches)
            for name, found in cell["steps"].items():
                if name == "padded" and (inner or (turn and cell["batch"] > bench.padded_rows)):
                    continue
                one(found, steps[name], batches[number], number, clock)
        slowest = max(slowest, time.perf_counter() - began)


def one(found: dict[str, Any], step: Step, rows: Rows, number: int, clock: Callable[..., tuple[float, float]]) -> None:
    """One measured step."""
    if found.get("out_of_memory"):
        return
    try:
        with step.around():
            wall, cpu = clock(lambda: step(rows))
    except torch.OutOfMemoryError:
        found["out_of_memory"] = True
        return
    found["times"].append(wall)
    found["cpu_times"].append(cpu)
    found["batch"].append(number)


def stopwatch(bench: Bench) -> Callable[..., tuple[float, float]]:
    """Runs something on cleared gradients: seconds by the clock, and seconds of processor time."""

    def run(work: Callable[[], Any]) -> tuple[float, float]:
        bench.model.zero_grad(set_to_none=True)
        _synchronise(bench.device)
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        _synchronise(bench.device)
        return time.perf_counter() - wall, time.process_time() - cpu

    return run


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(step: dict[str, Any], pick: Callable[[list[float]], float] = statistics.median) -> float:
    """Seconds per step: `pick` over the repeats of each micro-batch, then the mean over the micro-batches."""
    by_batch: dict[int, list[float]] = {}
    for number, taken in zip(step["batch"], step["times"], strict=True):
        by_batch.setdefault(number, []).append(taken)
    return statistics.mean(pick(times) for times in by_batch.values())


def describe_rows(batches: Sequence[Rows]) -> dict[str, Any]:
    """What is in the rows, as a mean over the micro-batches."""
    return {
        "batches": len(batches),
        "forget_rows": len(batches[0].forget),
        "retain_rows": len(batches[0].retain),
        "tokens": statistics.mean(rows.tokens for rows in batches),
        "answer_tokens": statistics.mean(answer_tokens(rows.all) for rows in batches),
        "longest": max(len(row.ids) for rows in batches for row in rows.all),
    }


def describe(bench: Bench, cells: Sequence[dict[str, Any]], peak_tflops: float | None) -> None:
    """Add to every step of every cell its seconds, tokens per second and, with a peak, the share of it."""
    for cell in cells:
        for name, step in cell["steps"].items():
            if not step["times"]:
                continue
            step["seconds"] = {"median": seconds(step), "best": seconds(step, min)}
            step["row_tokens_per_second"] = cell["rows"]["tokens"] / step["seconds"]["median"]
            if name == "padded":
                step["rows_per_forward"] = min(bench.padded_rows, cell["batch"])
        floor = cell["steps"].get("floor")
        for step in cell["steps"].values():
            if not step["times"]:
                continue
            step["tflops_computed"] = flops(bench.model, step["computed"]) / step["seconds"]["median"] / 1e12
            if peak_tflops:
                step["share_of_peak_computed"] = step["tflops_computed"] / peak_tflops
                if floor:
                    needed = flops(bench.model, floor["computed"])
                    step["share_of_peak_needed"] = needed / step["seconds"]["median"] / 1e12 / peak_tflops


def flops(model: Any, computed: dict[str, int]) -> float:
    """Floating-point operations of the matrix products of a step, by formula; attention's own products are left out.

    2 a weight and token forward; as many again for the gradient of the input, and for adapter weights for their own.
    """
    head = model.get_output_embeddings().weight.numel()
    adapter = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    frozen = [weight for name, weight in model.named_parameters() if "embed" not in name and not weight.requires_grad]
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    trunk = sum(weight.numel() for weight in frozen if weight.dim() == 2) - (0 if tied else head)
    return (
        computed["trained"] * (4 * trunk + 6 * adapter)
        + computed["reference"] * 2 * trunk
        + computed["head_trained"] * 4 * head
        + computed["head_reference"] * 2 * head
    )


def peak(options: argparse.Namespace, name: str) -> dict[str, int]:
    """Peak memory of one step, in this process: in all, and over what was held before the first step."""
    bench = load(options.model, options.device, [name], options.padded_rows)
    size = options.sizes[0]
    rows = bench.rows(options.form, size, 1)[0]
    step = bench.make(name)
    step.prepare(rows)
    gc.collect()
    held = resident_bytes(options.device)
    reset_peak(options.device)
    # Twice, because the second meets the gradients and whatever the first has kept.
    for _ in range(1 if name == "padded" else 2):
        with step.around():
            step(rows)
    most = peak_bytes(options.device)
    return {"peak_bytes": most, "held_before": held, "over_held": most - held}


def peak_in_process(options: argparse.Namespace, bench: Bench, form: str, size: int, name: str) -> dict[str, Any]:
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--peak-of",
        name,
        "--form",
        form,
        "--sizes",
        str(size),
        "--model",
        options.model,
        "--device",
        options.device,
        "--padded-rows",
        str(bench.padded_rows),
    ]
    if options.threads:
        command += ["--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {"failed": last[:200], "out_of_memory": "OutOfMemory" in last or done.returncode == -9}
    return json.loads(done.stdout.strip().splitlines()[-1])


def headline(cells: Sequence[dict[str, Any]], size: int) -> dict[str, Any]:
    """The four ratios at batch `size`, from medians; None where not measured.

    On top for relearn as it is best run on this machine: references computed beforehand, as in every training, and the
    faster of its two precisions, against a floor of the same precision. "float32" has the same with every step in
    float32, "no_reuse" those of a relearn that meets no retain row twice; `*_best` are of the best of the repeats.
    """
    bare, chat = (next(cell for cell in cells if (cell["form"], cell["batch"]) == (form, size)) for form in FORMS)
    plain = _ratios(bare, chat, "planned", "floor", "median")
    mixed = _ratios(bare, chat, "mixed", "mixed_floor", "median")
    won = (mixed["speedup_over_padded"] or 0) > (plain["speedup_over_padded"] or 0)
    return {
        **(mixed if won else plain),
        "measured_as": "mixed" if won else "planned",
        "float32": plain,
        "float32_best": _ratios(bare, chat, "planned", "floor", "best"),
        "float32_no_reuse": _ratios(bare, chat, "relearn", "floor", "median"),
        "bfloat16": mixed,
        "bfloat16_best": _ratios(bare, chat, "mixed", "mixed_floor", "best"),
    }


def _ratios(bare: dict[str, Any], chat: dict[str, Any], name: str, floor: str, key: str) -> dict[str, float | None]:
    peaks = [bare["steps"].get(step, {}).get("memory", {}).get("peak_bytes") for step in (name, "padded")]
    return {
        "speedup_over_padded": _ratio(bare, "padded", name, key),
        "memory_over_padded": peaks[0] / peaks[1] if all(peaks) else None,
        "time_over_floor": _ratio(bare, name, floor, key),
        "speedup_over_dynamic": _ratio(chat, "dynamic", name, key),
    }


def _ratio(cell: dict[str, Any], above: str, below: str, key: str) -> float | None:
    times = [cell["steps"].get(name, {}).get("seconds", {}).get(key) for name in (above, below)]
    return times[0] / times[1] if all(times) else None


def summary(found: dict[str, Any]) -> str:
    """The table a person reads."""
    heads = f"{'median s':>9} {'best s':>8} {'tokens/s':>9} {'computed':>9} {'peak GB':>8}"
    lines = [f"{'form':5} {'batch':>5} {'step':11} {heads}"]
    for cell in found["cells"]:
        for name, step in cell["steps"].items():
            if "seconds" not in step:
                lines.append(f"{cell['form']:5} {cell['batch']:5} {name:11} does not fit in memory")
                continue
            memory = step.get("memory", {}).get("peak_bytes")
            lines.append(
                f"{cell['form']:5} {cell['batch']:5} {name:11} {step['seconds']['median']:9.3f} "
                f"{step['seconds']['best']:8.3f} {step['row_tokens_per_second']:9.0f} "
                f"{step['computed']['trained'] + step['computed']['reference']:9} "
                f"{f'{memory / 1e9:8.2f}' if memory else '       -'}"
            )
    lines.append(f"measured as {found['measured_as']}")
    for kind in ("", "float32", "float32_no_reuse", "bfloat16"):
        for key in ("speedup_over_padded", "memory_over_padded", "time_over_floor", "speedup_over_dynamic"):
            value = (found[kind] if kind else found)[key]
            lines.append(f"{kind:16} {key} {'not measured' if value is None else f'{value:.3f}'}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
