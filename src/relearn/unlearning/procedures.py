"""Register procedures, functions that run an unlearning method and write its result into the run folder.

`Method.procedure` is the name of a procedure. A new procedure is one new file of this package with a function
registered by `procedure`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relearn.core.config import Model, Unlearn
from relearn.core.console import Ticker, quiet
from relearn.core.registry import Registry
from relearn.core.run_dir import RunFolder
from relearn.models.load import Loaded
from relearn.unlearning.data.streams import TrainingData
from relearn.unlearning.method import METHODS, Evaluate, LogRow


@dataclass(frozen=True, kw_only=True)
class Job:
    """Hold the inputs of a procedure.

    `loaded` is the start model, `model` its settings in the recipe (a second model is loaded with the same device and
    number format). `folder` is the run folder. `log` writes one row of the training log. `tick` updates the progress
    bar. `evaluate` scores a model in training; None means no evaluation during training.
    """

    loaded: Loaded
    data: TrainingData
    settings: Unlearn
    model: Model
    folder: Path
    seed: int
    log: LogRow
    tick: Ticker = quiet
    evaluate: Evaluate | None = None


@dataclass(frozen=True)
class Procedure:
    """Hold the functions of a procedure.

    `run` runs the method and writes the folder `result` in the run folder, completely or not at all. If `result` is
    None the folder is adapter/, or model/ under full fine-tuning. `check` gets the recipe's `model` and `unlearn`, and
    raises InputError for errors that can be found before a run begins.
    """

    run: Callable[[Job], None]
    result: str | None = None
    check: Callable[[Model, Unlearn], None] = lambda _model, _settings: None

    def __call__(self, job: Job) -> None:
        self.run(job)

    def result_name(self, settings: Unlearn) -> str:
        """Return the name of the result folder in the run folder."""
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
    """Return the name of the unlearning result in the run folder: adapter, model, or the name a procedure gives.

    If the method is from a plug-in that is not loaded, the name is read from the manifest of the run in `folder`.
    """
    if folder is not None and settings.method not in METHODS:
        outputs = RunFolder(folder).manifest["stages"].get("unlearn", {}).get("outputs", [])
        known = {"adapter", "model", *(PROCEDURES.get(name).result for name in PROCEDURES)}
        if len(outputs) == 1 and outputs[0] in known:
            return outputs[0]
    return PROCEDURES.get(METHODS.get(settings.method).procedure).result_name(settings)
