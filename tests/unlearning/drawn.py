"""A random optimiser step that offers whatever an objective needs, cut into micro-batches and reordered at will."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from relearn.unlearning.method import Batch, Stateful
from relearn.unlearning.token_loss import Scored

VOCABULARY, WIDTH = 11, 13  # wide enough for every vector of logits to be the image of some state
# Answer tokens of every row. Each forget row has one rejected, one original and two mismatched rows beside it.
LENGTHS = {
    "forget": (3, 1, 4),
    "rejected": (2, 4, 1),
    "original": (1, 2, 3),
    "mismatched": (2, 3, 1, 2, 2, 1),
    "retain": (4, 2, 1),
}
MISMATCHED = 2
ALL_ROWS = (0, 1, 2)
Form = Literal["logits", "head"]


@dataclass(frozen=True)
class Step:
    """`trained` holds what a gradient may reach, `fixed` the references: states (A, WIDTH), or (rows,) for an NLL."""

    trained: Mapping[str, torch.Tensor]
    fixed: Mapping[str, torch.Tensor]
    targets: Mapping[str, torch.Tensor]
    weight: torch.Tensor
    state: Mapping[str, float]

    def batch(
        self,
        forget: Sequence[int] = ALL_ROWS,
        retain: Sequence[int] = ALL_ROWS,
        *,
        form: Form = "head",
        trained: Mapping[str, torch.Tensor] | None = None,
        shift: float = 0.0,
    ) -> Batch:
        """A micro-batch of some rows, in this order. `shift` is added to every logit."""
        chosen = {
            "forget": forget,
            "rejected": forget,
            "original": forget,
            "mismatched": [MISMATCHED * row + number for row in forget for number in range(MISMATCHED)],
            "retain": retain,
        }
        found: dict[str, Any] = {"state": self.state}
        for name, value in {**self.fixed, **(trained or self.trained)}.items():
            stream = name.split("_")[0]
            if name.endswith("_nll"):
                found[name] = value[list(chosen[stream])]
                continue
            kept = self._tokens(stream, chosen[stream])
            states = name.endswith(("_states", "_states_reference"))
            found[name] = value[kept] if states else self._scored(stream, chosen[stream], value[kept], form, shift)
        return Batch(**found)

    def _tokens(self, stream: str, rows: Sequence[int]) -> torch.Tensor:
        pieces = torch.arange(sum(LENGTHS[stream])).split(LENGTHS[stream])
        return torch.cat([pieces[row] for row in rows])

    def _scored(self, stream: str, rows: Sequence[int], states: torch.Tensor, form: Form, shift: float) -> Scored:
        lengths = torch.tensor([LENGTHS[stream][row] for row in rows])
        owner = torch.arange(len(rows)).repeat_interleave(lengths)
        targets = self.targets[stream][self._tokens(stream, rows)]
        sizes = (owner, len(rows), sum(LENGTHS[stream]), len(LENGTHS[stream]))
        if form == "logits":
            return Scored(states @ self.weight + shift, targets, *sizes)
        return Scored(None, targets, *sizes, states=states, head=lambda piece: piece @ self.weight + shift)


def draw(objective: Any, seed: int = 0) -> Step:
    """A step of float64 numbers with what `objective` needs and, as ever, the forget rows."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    trained, fixed = {}, {}
    for name in sorted(objective.needs | {"forget"}):
        lengths = LENGTHS[name.split("_")[0]]
        if name.endswith("_nll"):
            fixed[name] = numbers(len(lengths)).abs() + 2
        elif "reference" in name:
            fixed[name] = numbers(sum(lengths), WIDTH)
        else:
            trained[name] = numbers(sum(lengths), WIDTH).requires_grad_()
    targets = {
        name: torch.randint(0, VOCABULARY, (sum(lengths),), generator=generator) for name, lengths in LENGTHS.items()
    }
    state = objective.initial_state if isinstance(objective, Stateful) else {}
    return Step(trained, fixed, targets, numbers(WIDTH, VOCABULARY) / WIDTH**0.5, state)


def gradients(step: Step, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradient of the loss in everything that is trained; zeros where it does not reach."""
    found = torch.autograd.grad(loss, list(step.trained.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(step.trained, found, strict=True))
