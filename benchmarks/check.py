"""Whether the steps that are compared do the same work: their logits, losses and gradients on the same rows.

A fresh adapter changes nothing and has no divergence from the start model, so for the check its B matrices are drawn
at random, and set back to zero afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from floor import NO_LIMIT, can_fuse, candidates
from steps import Dynamic, Mixed, Padded, Planned, Relearn
from workload import Rows

# Largest differences allowed, relative to the largest value: float32 on a CPU, bfloat16 on a GPU.
TOLERANCE = {"cpu": 1e-3, "cuda": 1e-1}
MIXED_COSINE = 0.99


class NotEqualError(Exception):
    """Steps that ought to agree do not; the message says which and by how much."""


def check(bench: Any, form: str, size: int, names: Sequence[str], *, quick: bool = False) -> dict[str, Any]:
    """The losses of every step and how far they are apart; `quick` leaves out the floor's gradients.

    Raises NotEqualError.
    """
    rows = bench.rows(form, size, 1)[0]
    tolerance = TOLERANCE[bench.device]
    with moved_adapter(bench.model):
        plain = Dynamic(bench.model)
        losses, gradients = _run(plain, rows)
        found: dict[str, Any] = {"batch": size, "tolerance": tolerance, "losses": {"dynamic": losses}, "apart": {}}
        for step in (Relearn(bench.model), Planned(bench.model)):
            own, slopes = _run(step, rows)
            found["losses"][step.name] = own
            found["apart"][f"{step.name} losses"] = max(abs(own[key] - losses[key]) for key in losses)
            found["apart"][f"{step.name} gradients"] = _apart(slopes, gradients)
        mixed = Mixed(bench.model)
        with mixed.around():
            found["losses"]["mixed"], slopes = _run(mixed, rows)
        # Rounded to eight bits on the way, so not held to the tolerance: the direction of the gradient must agree.
        found["mixed_gradient_cosine"] = float(torch.cosine_similarity(slopes, gradients, dim=0))
        found["apart"] |= _floors(bench.model, rows, quick)
        if "padded" in names:
            found["apart"] |= _padded(bench, Rows(rows.forget[:1], rows.retain[:1]))
    worst = max(found["apart"].items(), key=lambda item: item[1])
    found["agree"] = worst[1] <= tolerance and found["mixed_gradient_cosine"] > MIXED_COSINE
    if not found["agree"]:
        raise NotEqualError(
            f"{worst[0]} are {worst[1]:.3g} apart, {tolerance} is allowed; mixed gradients have the cosine "
            f"{found['mixed_gradient_cosine']:.4f} ({form} rows)"
        )
    return found


def _floors(model: Any, rows: Rows, quick: bool) -> dict[str, float]:
    """Every way to the floor has the logits of `Dynamic`, and all of them have the gradients of the first."""
    apart: dict[str, float] = {}
    with torch.no_grad():
        logits = torch.cat([Dynamic(model).answers(part)[0] for part in (rows.forget, rows.retain)])
    tried = candidates(model, rows)
    fused = [replace(tried[0], fused=True, _packs={})] if can_fuse(model) else []
    first = None
    for floor in (*tried, *fused):
        name = " ".join(["floor", *(f"{key}={value}" for key, value in floor.settings.items())])
        with torch.no_grad():
            apart[f"{name} logits"] = _apart(floor.answers(rows.all), logits)
        if floor.limit == NO_LIMIT and not quick:
            with floor.around():
                gradients = _run(floor, rows)[1]
            first = gradients if first is None else first
            apart[f"{name} gradients"] = _apart(gradients, first)
    return apart


@torch.no_grad()
def _padded(bench: Any, rows: Rows) -> dict[str, float]:
    """Its logits at the answers are the same, with either model; its divergence is another one, over padding too."""
    step, plain, apart = Padded(bench.model, bench.second), Dynamic(bench.model), {}
    for name, part in (("forget", rows.forget), ("retain", rows.retain)):
        apart[f"padded {name} logits"] = _apart(step.answers(bench.model, part), plain.answers(part)[0])
    own, expected = step.answers(bench.second, rows.retain), plain.reference(rows.retain)
    return {**apart, "padded reference logits": _apart(own, expected)}


def _run(step: Any, rows: Rows) -> tuple[dict[str, float], torch.Tensor]:
    step.model.zero_grad(set_to_none=True)
    step.prepare(rows)
    losses = {name: float(loss) for name, loss in step(rows).items()}
    gradients = torch.cat([weight.grad.float().flatten() for weight in _trained(step.model)])
    step.model.zero_grad(set_to_none=True)
    return losses, gradients


@contextmanager
def moved_adapter(model: Any) -> Iterator[None]:
    """B matrices drawn from a small normal distribution, for as long as it lasts."""
    generator = torch.Generator().manual_seed(0)
    ups = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    with torch.no_grad():
        for weight in ups:
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.01)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight in ups:
                weight.zero_()


def _trained(model: Any) -> list[torch.Tensor]:
    return [weight for weight in model.parameters() if weight.requires_grad and weight.grad is not None]


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())
