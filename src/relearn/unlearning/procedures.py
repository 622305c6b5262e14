"""How a method is carried out: `Method.procedure` names one of these. What is found is written into the run folder.

A new procedure is one new file in this package that registers itself with `procedure`; nothing else names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core.config import Model, Unlearn
from relearn.core.console import Ticker, quiet
from relearn.core.registry import Registry
from relearn.models.load import Loaded
from relearn.unlearning.data.streams import Material
from relearn.unlearning.method import METHODS

LogRow = Callable[..., None]


@dataclass(frozen=True)
class Job:
    """All that a procedure works with.

    `loaded` is the start model, `model` the recipe's entry it came from (a second model is loaded alike: device, number
    format). `folder` is the run folder. `log` takes one row of numbers at a time. `evaluate` maps a model in training
    to a score (higher is better), or is None when the recipe asks for no evaluation while training.
    """

    loaded: Loaded
    material: Material
    settings: Unlearn
    model: Model
    folder: Path
    seed: int
    log: LogRow
    tick: Ticker = quiet
    evaluate: Callable[[Any], float] | None = None


@dataclass(frozen=True)
class Procedure:
    """`carry_out` does the work and writes the folder `result` of the run folder, whole or not at all.

    Without `result` it is adapter/, or model/ under full fine-tuning. `check` raises InputError for what can be known
    to be wrong before a run begins; it is given the recipe's `model` and `unlearn`.
    """

    carry_out: Callable[[Job], None]
    result: str | None = None
    check: Callable[[Model, Unlearn], None] = lambda _model, _settings: None

    def __call__(self, job: Job) -> None:
        self.carry_out(job)

    def result_name(self, settings: Unlearn) -> str:
        """The folder in the run that holds what the procedure made."""
        return self.result or ("model" if settings.full else "adapter")


PROCEDURES: Registry[Procedure] = Registry("procedure", "relearn.unlearning", "relearn.unlearning.inference_time")


def procedure(
    name: str, *, result: str | None = None, check: Callable[[Model, Unlearn], None] | None = None
) -> Callable[[Callable[[Job], None]], Callable[[Job], None]]:
    """Registers a function `(job) -> None`; with `job.folder / (result or adapter)` it leaves what it made."""

    def add(carry_out: Callable[[Job], None]) -> Callable[[Job], None]:
        made = Procedure(carry_out, result, check) if check else Procedure(carry_out, result)
        PROCEDURES.add(name, made)
        return carry_out

    return add


def result_name(settings: Unlearn) -> str:
    """The folder in the run that holds what unlearning made."""
    return PROCEDURES.get(METHODS.get(settings.method).procedure).result_name(settings)
