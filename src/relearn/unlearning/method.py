"""The contract of an objective and the table of all methods.

An objective says which streams of rows it `needs` and gets exactly those, each as a `Scored`. A method is an objective
with its name, paper, defaults, the data its forget stream is made of, and the procedure that carries it out.

Limits on the numbers a method takes, in words a recipe's author can act on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from relearn.core.errors import InputError
from relearn.core.registry import Registry, suggest
from relearn.unlearning.data.streams import Source
from relearn.unlearning.token_loss import Scored

Need = Literal[
    "forget",  # rows of the method's data, see Method.data
    "rejected",  # for every forget row the answer that is not preferred to it, in the same order
    "mismatched",  # questions of the forget rows with answers of other records
    "original",  # questions of the forget rows with the original answers; a row may have none
    "retain",
    "forget_reference",  # the start model's distributions on the same rows
    "retain_reference",
    "forget_reference_nll",  # the start model's NLL of every row, (rows,)
    "rejected_reference_nll",
    "original_reference_nll",
    "forget_states",  # states of the layer `Objective.layer` at the scored positions
    "retain_states",
    "retain_states_reference",
]
Parts = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """What a micro-batch offers: only what the objective `needs` is filled in.

    `original` is missing from a micro-batch none of whose forget rows has one.

    `*_reference` are `Scored` of the start model without gradient; `*_reference_nll` (rows,) float32; `*_states`
    (A, width). `state` holds the numbers an objective carries from step to step (see `Stateful`).
    """

    forget: Scored
    retain: Scored | None = None
    retain_reference: Scored | None = None
    rejected: Scored | None = None
    mismatched: Scored | None = None
    original: Scored | None = None
    forget_reference: Scored | None = None
    forget_reference_nll: torch.Tensor | None = None
    rejected_reference_nll: torch.Tensor | None = None
    original_reference_nll: torch.Tensor | None = None
    forget_states: torch.Tensor | None = None
    retain_states: torch.Tensor | None = None
    retain_states_reference: torch.Tensor | None = None
    state: Mapping[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """A frozen dataclass whose fields are its configuration. Returns the loss and its named parts for the log.

    Every term is this micro-batch's share of the optimiser step (`Scored.mean`, `Scored.mean_rows`), so that the sum
    over micro-batches and processes is the loss of the step. Objectives that need states have a field `layer`.
    """

    @property
    def needs(self) -> frozenset[Need]: ...

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Parts]: ...


@runtime_checkable
class Stateful(Protocol):
    """An objective that carries numbers from step to step; they are kept in checkpoints."""

    @property
    def initial_state(self) -> dict[str, float]: ...

    def next_state(self, state: Mapping[str, float], parts: Mapping[str, float]) -> dict[str, float]:
        """The state after an optimiser step whose parts were `parts`, summed over its micro-batches."""
        ...


@dataclass(frozen=True)
class Method:
    """One line of `relearn list methods`: how to build an objective, and where it is from.

    `data`: what the forget stream is made of (`unlearning/data/streams.py` makes it). `procedure`: "train" is one
    training with the objective; others are named in `unlearning/procedures.py`.
    """

    name: str
    family: str
    paper: str
    build: Callable[..., Objective]
    defaults: Mapping[str, Any]
    data: Source = "synthesised"
    procedure: str = "train"

    def objective(self, options: Mapping[str, Any]) -> Objective:
        for key in options:
            if key not in self.defaults:
                raise InputError(
                    f"{self.name} has no option {key!r}",
                    where="unlearn.options",
                    way_out=suggest(key, list(self.defaults)) if self.defaults else "it has none",
                )
        try:
            return self.build(**{**self.defaults, **options})
        except (ValueError, TypeError) as error:
            raise InputError(str(error), where="unlearn.options") from None

    def source(self, options: Mapping[str, Any]) -> Source:
        """What the forget stream is made of: `data`, unless the objective says so itself (it holds another one)."""
        return getattr(self.objective(options), "data", self.data)


METHODS: Registry[Method] = Registry(
    "method",
    "relearn.unlearning.losses",
    "relearn.unlearning.weight_arithmetic",
    "relearn.unlearning.inference_time.methods",
)


def positive(**numbers: Any) -> None:
    """Raises ValueError for the first number that is not above 0 (or no number at all: YAML reads 1e-1 as text)."""
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{name} is {value!r}: give a number above 0")


def not_negative(**numbers: Any) -> None:
    """Raises ValueError for the first number that is below 0 or no number at all."""
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not value >= 0:
            raise ValueError(f"{name} is {value!r}: give a number of 0 or more")
