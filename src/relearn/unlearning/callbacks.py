"""Evaluate a model during training: keep the best weights, and record the probabilities of a few answers.

`KeepBest` scores the model every n steps. `Trajectory` records the probability seesaw of arXiv 2502.11190 (5.2): one
forward pass over a few forget rows with their ORIGINAL answers and as many retain rows, before the first step, every
`every` steps and after the last. Each pass is one line of trajectory.jsonl in the run folder:

    {"step": 20, "rows": [{"id", "split", "token", "first", "mean", "entropy", "top": [[token, p], ...]}]}

`first` is the probability of the true `token` at the first answer position, `mean` that of all answer positions,
`entropy` (nats) and `top` (the five likeliest tokens) belong to the first position. Weights, gradients and random
numbers are not changed. A resumed training drops the lines after its checkpoint, so that it writes the same file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from relearn.core.run_dir import append_jsonl, read_jsonl, replaced_dir, write_json, write_jsonl
from relearn.data.record import evenly
from relearn.engine.forward import TokenRow, predict
from relearn.engine.model_support import evaluating
from relearn.models.chat import ChatFormat
from relearn.unlearning.data.encode import encode, record_example
from relearn.unlearning.data.streams import TrainingData
from relearn.unlearning.method import LogRow
from relearn.unlearning.reference_model import mixed

FILE = "trajectory.jsonl"
ROWS = 4
TOP = 5
_DIGITS = 6
_WEIGHTS = "weights.safetensors"


class KeepBest(TrainerCallback):
    """Call `evaluate(model) -> float` every `every` steps; `restore` puts the best trainable weights back."""

    def __init__(self, model: Any, evaluate: Callable[[Any], float], *, every: int, folder: Path, log: LogRow):
        self._model = model
        self._evaluate = evaluate
        self._every = every
        self._folder = folder
        self._log = log

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self._every and state.global_step != state.max_steps:
            return
        was_training = self._model.training
        self._model.eval()
        score = self._evaluate(self._model)
        self._model.train(was_training)
        self._log(step=state.global_step, score=round(score, 6), kind="evaluation")
        if score > self.best_score:
            self._save(score, state.global_step)

    @property
    def best_score(self) -> float:
        path = self._folder / "score.json"
        return json.loads(path.read_text())["score"] if path.exists() else float("-inf")

    def restore(self) -> None:
        """Load the best weights, if there was an evaluation."""
        if (self._folder / _WEIGHTS).exists():
            self._model.load_state_dict(load_file(self._folder / _WEIGHTS), strict=False)

    def _save(self, score: float, step: int) -> None:
        trainable = {name: weight.detach() for name, weight in self._model.named_parameters() if weight.requires_grad}
        with replaced_dir(self._folder) as target:
            save_file(trainable, target / _WEIGHTS)
            write_json(target / "score.json", {"score": score, "step": step})


class Trajectory(TrainerCallback):
    """Write to `path` what the model predicts for `rows`, forget and retain rows by split.

    Every process runs the forward pass, because sharded weights need all of them; the main process writes.
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
    """Make the callback for a training on `data`; its rows are spread evenly over the records."""
    splits = {"forget": data.records, "retain": data.retain}
    rows = {
        split: encode(chat, [record_example(record) for record in evenly(records, ROWS)], max_length=length)
        for split, records in splits.items()
        if records
    }
    return Trajectory(rows, every, folder / FILE, autocast=autocast)


def _probabilities(logits: torch.Tensor, row: TokenRow) -> dict[str, Any]:
    """Summarise the predictions for one row; logits (answer tokens, V)."""
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
