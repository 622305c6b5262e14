"""First-order learning dynamics: what one small step of an objective does to log-probabilities, told beforehand.

    delta log p(v | x') = -eta (d log p(v | x') / d theta) (d L / d theta)^T + O(eta^2)

d L / d theta is the sum over the trained tokens of (d z / d theta)^T times the residual d L / d z, so that the right
side is the empirical neural tangent kernel K(x', x) = J(x') J(x)^T times the residual, through one Jacobian-vector
product: no kernel is ever held. The frame is that of Ren and Sutherland (arXiv 2407.10490); see docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.func import functional_call, jvp

from relearn.engine.forward import TokenRow
from relearn.engine.model_support import evaluating

Direction = Mapping[str, torch.Tensor]


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def descent(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Minus the gradient of `loss` (a scalar) in every trained weight, by name; zero where the loss does not reach."""
    weights = trained(model)
    slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if slope is None else -slope
        for (name, weight), slope in zip(weights.items(), slopes, strict=True)
    }


def norm(direction: Direction) -> float:
    """Euclidean length over all weights."""
    return float(torch.stack([part.double().square().sum() for part in direction.values()]).sum().sqrt())


@torch.no_grad()
def runners_up(model: Any, row: TokenRow) -> torch.Tensor:
    """At every answer position the likeliest token beside the true one: (answer tokens,)."""
    with evaluating(model):
        logits = _logits(model, row, {})
    logits.scatter_(1, _targets(row, logits.device)[:, None], -torch.inf)
    return logits.argmax(-1)


@torch.no_grad()
def logprobs(model: Any, row: TokenRow, others: torch.Tensor) -> torch.Tensor:
    """Log-probability at every answer position of the true token and of `others`: (answer tokens, 2)."""
    with evaluating(model):
        return _read(_logits(model, row, {}), row, others)


def predicted(model: Any, row: TokenRow, others: torch.Tensor, direction: Direction) -> torch.Tensor:
    """The first-order change of `logprobs` when the weights move by `direction`: (answer tokens, 2).

    The model needs attention that can be differentiated forwards: "eager".
    """
    weights = {name: weight.detach() for name, weight in trained(model).items()}

    def answer(moved: dict[str, torch.Tensor]) -> torch.Tensor:
        return _read(_logits(model, row, moved), row, others)

    with evaluating(model):
        found = jvp(answer, (weights,), ({name: direction[name] for name in weights},))
    return found[1].detach()


@contextmanager
def moved(model: Any, direction: Direction, scale: float = 1.0):
    """The model with `scale` times `direction` added to its weights; afterwards it is as it was, to the bit."""
    weights = trained(model)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.add_(direction[name], alpha=scale)
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


def kernel_step(logits: torch.Tensor, residual: torch.Tensor, rate: float = 1.0) -> torch.Tensor:
    """Change of the log-probabilities (V,) at the trained position itself where its kernel is the identity.

    `residual` (V,) is d L / d logits. What docs/theory.md works out by hand.
    """
    change = -rate * residual
    return change - (logits.softmax(-1) * change).sum(-1, keepdim=True)


def agreement(told: Sequence[float], seen: Sequence[float], least: float = 0.0) -> dict[str, Any]:
    """Pearson correlation and share of equal signs, over pairs of which one is above `least`; None where unknown."""
    pairs = [(a, b) for a, b in zip(told, seen, strict=True) if max(abs(a), abs(b)) > least]
    if len(pairs) < 2:
        return {"pairs": len(pairs), "correlation": None, "same_sign": None}
    one, other = torch.tensor(pairs, dtype=torch.float64).T
    apart = (one - one.mean(), other - other.mean())
    size = apart[0].norm() * apart[1].norm()
    return {
        "pairs": len(pairs),
        "correlation": round(float((apart[0] * apart[1]).sum() / size), 4) if size > 0 else None,
        "same_sign": round(float((one.sign() == other.sign()).double().mean()), 4),
    }


def _logits(model: Any, row: TokenRow, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits at the answer positions: (answer tokens, V)."""
    ids = torch.tensor([row.ids], device=next(model.parameters()).device)
    found = functional_call(model, dict(weights), kwargs={"input_ids": ids, "use_cache": False}).logits
    return found[0, row.answer_start - 1 : -1]


def _read(logits: torch.Tensor, row: TokenRow, others: torch.Tensor) -> torch.Tensor:
    wanted = torch.stack([_targets(row, logits.device), others.to(logits.device)], dim=1)
    return logits.log_softmax(-1).gather(1, wanted)


def _targets(row: TokenRow, device: torch.device) -> torch.Tensor:
    return torch.tensor(row.ids[row.answer_start :], device=device)
