"""What a mask (SURE, MemFlex) adds to a training: whole short trainings with and without it, in turns.

    python benchmarks/masks.py --out FILE.json

GradDiff on KnowUnDo rows, batch 4. `overhead` is the time to find the mask and do all steps over the time of the steps
without one. Finding it is bounded by a share of the training's passes (see training/masks), so longer trainings have no
larger ratio. `step_overhead` is the ratio of the steps alone, the optimiser and the mask in them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from workload import DEMO, MODELS, NoDataError, data_folder, draw, load_bare, machine, with_adapter, write

from relearn.core.config import Mask
from relearn.unlearning.data.batches import MicroBatch, with_step_sizes
from relearn.unlearning.masks.mask import make_mask
from relearn.unlearning.method import METHODS
from relearn.unlearning.trainer import Loop, train

KINDS = ("none", "sure", "memflex")
GOAL = 1.15


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="write everything measured to this JSON file")
    parser.add_argument("--model", choices=MODELS, default=DEMO)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=36, help="optimiser steps of one training")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each kind")
    options = parser.parse_args(arguments)
    try:
        found = measure(options)
    except NoDataError as error:
        print(f"masks: {error}", file=sys.stderr)
        return 2
    if options.out:
        write(options.out, found)
    print(summary(found))
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.model == DEMO:
        data_folder()
    bare, tokenizer = load_bare(options.model, options.device)
    model = with_adapter(bare)
    batches = [
        with_step_sizes([MicroBatch(rows.forget, rows.retain)])[0]
        for rows in draw(options.model, tokenizer, "bare", 4, options.steps)
    ]
    fresh = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    trainings: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    # The first training in a process pays for what comes to be once.
    training(model, fresh, batches[:2], "none")
    for turn in range(options.rounds):
        for kind in KINDS[turn % 3 :] + KINDS[: turn % 3]:
            trainings[kind].append(training(model, fresh, batches, kind))
    medians = {
        kind: {part: statistics.median(one[part] for one in own) for part in ("find", "steps", "both")}
        for kind, own in trainings.items()
    }
    plain = medians["none"]
    return {
        "overhead": {kind: medians[kind]["both"] / plain["both"] for kind in KINDS[1:]},
        "step_overhead": {kind: medians[kind]["steps"] / plain["steps"] for kind in KINDS[1:]},
        "goal": GOAL,
        "model": options.model,
        "method": "grad_diff",
        "batch": 4,
        "steps": options.steps,
        "medians": medians,
        "trainings": trainings,
        "machine": machine(options.device),
    }


def training(model: Any, fresh: dict[str, torch.Tensor], batches: Sequence[MicroBatch], kind: str) -> dict[str, Any]:
    """One training from the fresh adapter: seconds to find the mask, of the steps, of it all, and what moved."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in fresh:
                weight.copy_(fresh[name])
                weight.grad = None
    model.train()
    clock = _Clock()
    objective = METHODS.get("grad_diff").objective({})
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        masks = [make_mask(Mask(name=kind), model, batches)] if kind != "none" else []
        found = time.perf_counter()
        train(
            model,
            batches,
            objective,
            loop=Loop(1e-4),
            checkpoints=Path(folder) / "checkpoints",
            log=lambda **_: None,
            callbacks=[*masks, clock],
        )
    moving = float(torch.cat([rows.float() for rows in masks[0].moving.values()]).mean()) if masks else 1.0
    return {
        "find": found - began,
        "steps": sum(clock.steps),
        "both": found - began + sum(clock.steps),
        "each": clock.steps,
        "rows_that_may_move": moving,
        "weights_that_moved": _moved(model, fresh),
    }


def _moved(model: Any, fresh: dict[str, torch.Tensor]) -> float:
    weights = {name: weight.detach() for name, weight in model.named_parameters() if name in fresh}
    moved = sum(int((weight != fresh[name]).sum()) for name, weight in weights.items())
    return moved / sum(weight.numel() for weight in weights.values())


class _Clock(TrainerCallback):
    """Seconds from the beginning of each step to its end, the optimiser and the mask in between."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps.append(time.perf_counter() - self._began)


def summary(found: dict[str, Any]) -> str:
    lines = [f"{'mask':8} {'find s':>7} {'steps s':>8} {'both s':>8} {'overhead':>9} {'of steps':>9}"]
    for kind, times in found["medians"].items():
        over = found["overhead"].get(kind, 1.0), found["step_overhead"].get(kind, 1.0)
        lines.append(
            f"{kind:8} {times['find']:7.2f} {times['steps']:8.2f} {times['both']:8.2f} {over[0]:9.3f} {over[1]:9.3f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
