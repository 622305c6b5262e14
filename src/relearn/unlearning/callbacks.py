"""Evaluation while training: every n steps the model is asked, and the best adapter so far is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from relearn.core.run_dir import replaced_dir, write_json
from relearn.unlearning.trainer import LogRow

_WEIGHTS = "weights.safetensors"


class KeepBest(TrainerCallback):
    """Calls `evaluate(model) -> float` every `every` steps; `restore` puts the best trainable weights back."""

    def __init__(self, model: Any, evaluate: Callable[[Any], float], every: int, folder: Path, log: LogRow):
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
        """Load the best weights, if any evaluation took place."""
        if (self._folder / _WEIGHTS).exists():
            self._model.load_state_dict(load_file(self._folder / _WEIGHTS), strict=False)

    def _save(self, score: float, step: int) -> None:
        trainable = {name: weight.detach() for name, weight in self._model.named_parameters() if weight.requires_grad}
        with replaced_dir(self._folder) as target:
            save_file(trainable, target / _WEIGHTS)
            write_json(target / "score.json", {"score": score, "step": step})
