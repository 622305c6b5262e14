"""The contract of an objective and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from relearn.errors import InputError
from relearn.objectives.scored import Scored
from relearn.registry import Registry, suggest

Need = Literal["forget", "retain", "retain_reference"]


@dataclass(frozen=True)
class Batch:
    """What a micro-batch offers: only what the objective `needs` is filled in."""

    forget: Scored
    retain: Scored | None = None
    retain_reference: torch.Tensor | None = None


class Objective(Protocol):
    """A frozen dataclass whose fields are its configuration. Returns the loss and its named parts for the log."""

    @property
    def needs(self) -> frozenset[Need]: ...

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]: ...


@dataclass(frozen=True)
class Method:
    """One line of `relearn list methods`: how to build an objective, and where it is from."""

    name: str
    family: str
    paper: str
    build: Callable[..., Objective]
    defaults: Mapping[str, Any]

    def objective(self, options: Mapping[str, Any]) -> Objective:
        for key in options:
            if key not in self.defaults:
                raise InputError(
                    f"{self.name} has no option {key!r}",
                    where="unlearn.options",
                    way_out=suggest(key, list(self.defaults)),
                )
        try:
            return self.build(**{**self.defaults, **options})
        except ValueError as error:
            raise InputError(str(error), where="unlearn.options") from None


METHODS: Registry[Method] = Registry("method", "relearn.objectives")
