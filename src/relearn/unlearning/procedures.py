"""Register procedures, which run a method and write its result into the run folder; `Method.procedure` names one.

A new procedure is a function registered with `procedure` in one new file of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core.config import Model, Unlearn
from relearn.core.console import Ticker, quiet
from relearn.core.registry import Registry
from relearn.core.run_dir import RunFolder
from relearn.models.load import Loaded
from relearn.unlearning.data.streams import TrainingData
from relearn.unlearning.method import METHODS, LogRow


@dataclass(frozen=True, kw_only=True)
class Job:
    """The inputs of a procedure.

    `loaded` is the start model, `model` the recipe's entry for it (a second model is loaded with the same device and
    number format). `folder` is the run folder. `log` writes one row of numbers. `evaluate` maps a model in training to
    a score (higher is better), or is None when the recipe asks for no train-time evaluation.
    """

    loaded: Loaded
    data: TrainingData
    settings: Unlearn
    model: Model
    folder: Path
    seed: int
    log: LogRow
    tick: Ticker = quiet
    evaluate: Callable[[Any], float] | None = None


@dataclass(frozen=True)
class Procedure:
    """`run` does the work and writes the folder `result` of the run folder, completely or not at all.

    Without `result` it is adapter/, or model/ under full fine-tuning. `check` gets the recipe's `model` and `unlearn`
    and raises InputError for errors that can be found before a run begins.
    """

    run: Callable[[Job], None]
    result: str | None = None
    check: Callable[[Model, Unlearn], None] = lambda _model, _settings: None

    def __call__(self, job: Job) -> None:
        self.run(job)

    def result_name(self, settings: Unlearn) -> str:
        """Name the folder in the run that holds the result."""
        return self.result or ("model" if settings.full else "adapter")


PROCEDURES: Registry[Procedure] = Registry("procedure", "relearn.unlearning")


def procedure(
    name: str, *, result: str | None = None, check: Callable[[Model, Unlearn], None] | None = None
) -> Callable[[Callable[[Job], None]], Callable[[Job], None]]:
    """Register a function `(job) -> None` that writes `job.folder / (result or "adapter")`."""

    def register(run: Callable[[Job], None]) -> Callable[[Job], None]:
        PROCEDURES.add(name, Procedure(run, result, check) if check else Procedure(run, result))
        return run

    return register


def result_name(settings: Unlearn, folder: Path | None = None) -> str:
    """Name the folder in the run that holds the result of unlearning.

    Where the method came from a plug-in that is not loaded, the manifest of the run in `folder` names the result.
    """
    if folder is not None and settings.method not in METHODS:
        outputs = RunFolder(folder).manifest["stages"].get("unlearn", {}).get("outputs", [])
        known = {"adapter", "model", *(PROCEDURES.get(name).result for name in PROCEDURES)}
        if len(outputs) == 1 and outputs[0] in known:
            return outputs[0]
    return PROCEDURES.get(METHODS.get(settings.method).procedure).result_name(settings)
