"""Evaluate a model during training: keep the best weights, and record the token probabilities of a few answers.

`KeepBest` scores the model before the first step and every `every` steps. `Trajectory` records the "probability seesaw"
of arXiv 2502.11190 (5.2). It runs a forward pass over up to 4 forget rows with their ORIGINAL answers and up to 4
retain rows: before the first step, every `every` steps and after the last step. Each pass writes one line of
trajectory.jsonl in the run folder:

    {"step": 20, "rows": [{"id", "split", "token", "first", "mean", "entropy", "top": [[token, p], ...]}]}

`first` is the probability of the true `token` at the first answer position. `mean` is the mean probability of the true
tokens over all answer positions. `entropy` (nats) and `top` (the five likeliest tokens) are for the first position.
Weights, gradients and random numbers do not change. A resumed training deletes the lines after its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from relearn.core.files import append_jsonl, read_jsonl, replaced_dir, write_json, write_jsonl
from relearn.data.record import evenly
from relearn.engine.forward import TokenRow, predict
from relearn.engine.model_support import evaluating
from relearn.models.chat import ChatFormat
from relearn.unlearning.data.encode import encode, record_example
from relearn.unlearning.data.streams import TrainingData
from relearn.unlearning.method import Evaluate, LogRow
from relearn.unlearning.reference_model import mixed

FILE = "trajectory.jsonl"
ROWS = 4
TOP = 5
_DIGITS = 6
_WEIGHTS = "weights.safetensors"


class KeepBest(TrainerCallback):
    """Score the model with `evaluate(model)` every `every` steps, and save the best trainable weights.

    `evaluate` returns named values, of which "score" is compared; all are logged, also before the first step. `restore`
    loads the best weights into the model. `folder` holds weights.safetensors and score.json.
    """

    def __init__(self, model: Any, evaluate: Evaluate, *, every: int, folder: Path, log: LogRow):
        self._model = model
        self._evaluate = evaluate
        self._every = every
        self._folder = folder
        self._log = log

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self._score(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self._every and state.global_step != state.max_steps:
            return
        score = self._score(state.global_step)
        if score > self.best_score:
            self._save(score, state.global_step)

    def _score(self, step: int) -> float:
        was_training = self._model.training
        self._model.eval()
        values = self._evaluate(self._model)
        self._model.train(was_training)
        self._log(step=step, kind="evaluation", **{name: round(value, 6) for name, value in values.items()})
        return values["score"]

    @property
    def best_score(self) -> float:
        path = self._folder / "score.json"
        return json.loads(path.read_text())["score"] if path.exists() else float("-inf")

    def restore(self) -> None:
        """Load the best weights into the model; do nothing when no evaluation was saved."""
        if (self._folder / _WEIGHTS).exists():
            self._model.load_state_dict(load_file(self._folder / _WEIGHTS), strict=False)

    def _save(self, score: float, step: int) -> None:
        trainable = {name: weight.detach() for name, weight in self._model.named_parameters() if weight.requires_grad}
        with replaced_dir(self._folder) as target:
            save_file(trainable, target / _WEIGHTS)
            write_json(target / "score.json", {"score": score, "step": step})


class Trajectory(TrainerCallback):
    """Write the answer token probabilities of `rows` to the JSON Lines file `path` during training.

    `rows` maps the splits "forget" and "retain" to their rows. Every process runs the forward pass, because sharded
    weights need all processes.
    """

    def __init__(self, rows: Mapping[str, Sequence[TokenRow]], every: int, path: Path, *, autocast: bool = False):
        self._rows = {split: list(own) for split, own in rows.items() if own}
        self._every = every
        self._path = path
        self._autocast = autocast

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 0:
            write_jsonl(self._path, ())
            self._record(model, 0)
        elif self._path.exists():
            lines = read_jsonl(self._path, torn=True)
            write_jsonl(self._path, (row for row in lines if row["step"] <= state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            self._record(model, state.global_step)

    def _record(self, model: Any, step: int) -> None:
        rows = [row for own in self._rows.values() for row in own]
        splits = [split for split, own in self._rows.items() for _ in own]
        with torch.no_grad(), evaluating(model), mixed(next(model.parameters()).device, self._autocast):
            predicted = predict(model, rows)
        entries, start = [], 0
        for row, split in zip(rows, splits, strict=True):
            stop = start + row.answer_tokens
            with torch.no_grad():
                entries.append({"id": row.id, "split": split} | _probabilities(predicted.logits_at(start, stop), row))
            start = stop
        append_jsonl(self._path, {"step": step, "rows": entries})


def make_trajectory(
    chat: ChatFormat, data: TrainingData, folder: Path, *, every: int, length: int, autocast: bool = False
) -> Trajectory:
    """Make the `Trajectory` callback of a training on `data`, with rows chosen evenly over the records of each split.

    `every` is in optimiser steps, `length` is the most tokens of a row.
    """
    splits = {"forget": data.records, "retain": data.retain}
    rows = {
        split: encode(chat, [record_example(record) for record in evenly(records, ROWS)], max_length=length)
        for split, records in splits.items()
        if records
    }
    return Trajectory(rows, every, folder / FILE, autocast=autocast)


def _probabilities(logits: torch.Tensor, row: TokenRow) -> dict[str, Any]:
    """Compute the trajectory entry of one row from its logits (answer tokens, V)."""
    probs = logits.softmax(-1)
    targets = torch.tensor(row.ids[row.answer_start :], device=probs.device)
    target_probs = probs.gather(1, targets[:, None])[:, 0]
    likeliest = probs[0].topk(min(TOP, probs.shape[-1]))
    return {
        "token": int(targets[0]),
        "first": round(float(target_probs[0]), _DIGITS),
        "mean": round(float(target_probs.mean()), _DIGITS),
        "entropy": round(float(torch.special.entr(probs[0]).sum()), _DIGITS),
        "top": [
            [token, round(prob, _DIGITS)]
            for token, prob in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        ],
    }
