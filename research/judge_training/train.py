"""Train the adapter of the built-in entailment judge: `python research/judge_training/train.py --data DATA --out DIR`.

Passes over SNLI, pairs about facts (facts.py) and, three times over, the TOFU pairs of the retain side; from a certain
step on also longer answers (stories.py) and pairs turned round (turned.py). The rows, their order and the first weights
follow from the seed. A run that was cut off goes on from its last checkpoint. With --processes N, each started with its
--process, every process takes an N-th of each step's rows. A step holds pairs of like length, and nothing is padded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from facts import training_facts
from lora import LoraDecider, load_halves
from safetensors.torch import load_file, save_file
from stories import training_stories
from turned import turned_pairs

from data import Pair, States, batches, read_pairs

DEVELOPMENT = 2000


@dataclass(frozen=True)
class Settings:
    """`facts`: how many pairs about facts. The rate rises over `warm_up` steps and falls over the last `decay`."""

    seed: int = 20250
    rank: int = 64
    inner: int = 192
    batch: int = 128
    peak: float = 1e-3
    warm_up: int = 60
    steps: int = 2000
    decay: int = 600
    join: int = 675
    facts: int = 24_000
    tofu_times: int = 3
    weight_decay: float = 0.01
    save_every: int = 25

    def rate(self, step: int) -> float:
        return self.peak * min(1.0, (step + 1) / self.warm_up, (self.steps - step) / self.decay)


@dataclass(frozen=True)
class Material:
    """`first`: what a run begins with; `later`: what joins it; `development`: SNLI to set the temperature by."""

    first: list[list[Pair]]
    later: list[Pair]
    development: list[Pair]


def material(data: Path, settings: Settings) -> Material:
    """The last rows of SNLI are for the development, and no pair with one of their premises is trained on."""
    snli = [pair for pair, _ in read_pairs(data / "nli" / "snli_train_subset.jsonl.gz")]
    development = snli[-DEVELOPMENT:]
    seen = {pair.premise for pair in development}
    snli = [pair for pair in snli[:-DEVELOPMENT] if pair.premise not in seen]
    tofu = [pair for pair, row in read_pairs(data / "nli" / "tofu_nli.jsonl") if row["source"] == "tofu_retain"]
    rest = [*training_facts(settings.seed, settings.facts), *tofu * settings.tofu_times]
    later = [*training_stories(settings.seed), *turned_pairs(snli, settings.seed)]
    return Material([snli, rest], later, development)


def plan(states: States, later: int, settings: Settings) -> Iterator[list[np.ndarray]]:
    """The steps of a run. The last `later` rows join the unseen ones at step `join`; then come passes over all."""
    rng = np.random.default_rng(settings.seed)
    everything = np.arange(len(states.totals))
    first = list(batches(states.totals, everything[: len(everything) - later], settings.batch, rng))
    joined = np.concatenate([*itertools.chain(*first[settings.join :]), everything[len(everything) - later :]])
    passes = itertools.chain([joined], itertools.repeat(everything))
    rest = itertools.chain.from_iterable(batches(states.totals, rows, settings.batch, rng) for rows in passes)
    return itertools.islice(itertools.chain(first[: settings.join], rest), settings.steps)


class Trainer:
    def __init__(self, settings: Settings, out: Path, rank: int, processes: int):
        self.settings, self._out, self._rank, self._processes = settings, out, rank, processes
        self._encoder, decider, self._tokenizer = load_halves(settings.inner)
        self._model = LoraDecider(decider, settings.rank, settings.seed)
        self._parameters = list(self._model.weights.values())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=settings.peak, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True
        )
        self._done = self._resume()

    def run(self, data: Path) -> None:
        pairs = material(data, self.settings)
        if self._rank:
            # The first process works out the lowest layers' states for all.
            dist.barrier()
        states = States(self._encoder, self._tokenizer, [*pairs.first, pairs.later], self._out)
        if self._processes > 1 and not self._rank:
            dist.barrier()
        sizes = [len(some) for some in (*pairs.first, pairs.later)]
        print(f"SNLI, facts and TOFU, later: {sizes}; {states.totals.mean():.1f} tokens a pair", flush=True)
        told, spent, loss, right, seen = time.time(), time.process_time(), 0.0, 0, 0
        for step, groups in enumerate(plan(states, len(pairs.later), self.settings)):
            if step < self._done:
                continue
            found = self._step(step, states, groups)
            loss, right, seen = loss + found[0], right + found[1], seen + found[2]
            if (step + 1) % 20 == 0:
                speed = f"{seen / (time.time() - told):.0f} pairs/s, {seen / (time.process_time() - spent):.0f} a CPU s"
                print(f"{step + 1} loss {loss / seen:.4f} accuracy {right / seen:.3f} {speed}", flush=True)
                told, spent, loss, right, seen = time.time(), time.process_time(), 0.0, 0, 0
            if (step + 1) % self.settings.save_every == 0 or step + 1 == self.settings.steps:
                self._save(step + 1)

    def _step(self, number: int, states: States, groups: list[np.ndarray]) -> tuple[float, int, int]:
        whole = sum(map(len, groups))
        mine = [group[(self._rank + at) % self._processes :: self._processes] for at, group in enumerate(groups)]
        self._model.merge()
        total, right, seen = torch.zeros(()), 0, 0
        for rows in mine:
            if len(rows):
                hidden, premise, labels = states.batch(rows)
                logits = self._model(hidden, premise)
                total = total + F.cross_entropy(logits, labels, reduction="sum")
                right += int((logits.argmax(1) == labels).sum())
                seen += len(rows)
        if seen:
            (total / whole).backward()
        self._share()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.rate(number)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(total.detach()), right, seen

    def _share(self) -> None:
        """Add up the gradients of all processes."""
        if self._processes == 1:
            return
        parts = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in self._parameters]
        flat = torch.cat([part.reshape(-1) for part in parts])
        dist.all_reduce(flat)
        for tensor, part in zip(self._parameters, flat.split([tensor.numel() for tensor in parts]), strict=True):
            tensor.grad = part.view_as(tensor)

    def _save(self, step: int) -> None:
        if self._rank:
            return
        tensors = {f"weight/{name}": tensor.detach() for name, tensor in self._model.weights.items()}
        for name, tensor in self._model.weights.items():
            state = self._optimizer.state[tensor]
            tensors[f"first/{name}"], tensors[f"second/{name}"] = state["exp_avg"], state["exp_avg_sq"]
        save_file(tensors, self._out / "new.safetensors", {"step": str(step)})
        os.replace(self._out / "new.safetensors", self._out / "checkpoint.safetensors")
        adapter = {name: tensor.detach().half() for name, tensor in self._model.weights.items()}
        save_file(adapter, self._out / f"adapter-{step}.safetensors", {"step": str(step)})

    def _resume(self) -> int:
        path = self._out / "checkpoint.safetensors"
        if not path.exists():
            return 0
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            step = int(file.metadata()["step"])
        tensors = load_file(path)
        with torch.no_grad():
            for name, tensor in self._model.weights.items():
                tensor.copy_(tensors[f"weight/{name}"])
                self._optimizer.state[tensor] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": tensors[f"first/{name}"],
                    "exp_avg_sq": tensors[f"second/{name}"],
                }
        return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds nli/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    data, out, processes, process = (given.pop(name) for name in ("data", "out", "processes", "process"))
    settings = Settings(**given)
    out.mkdir(parents=True, exist_ok=True)
    if processes > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{(out / 'meeting').resolve()}", rank=process, world_size=processes
        )
    if not process:
        (out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    Trainer(settings, out, process, processes).run(data)


if __name__ == "__main__":
    main()
