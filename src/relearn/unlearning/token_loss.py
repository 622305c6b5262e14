"""What an objective sees of a model: its predictions at the answer tokens, and nothing else.

No padding, no -100, no shift: those were settled before. Letters: A answer tokens of all rows together, H width of the
model, V vocabulary. A `Scored` holds either the logits (A, V) or the states (A, H) in front of a frozen output layer;
objectives cannot tell which. With states, logits exist for a chunk of tokens at a time: the gradient of a per-token
value in the states is worked out on the way forward and is all that is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from relearn.engine.forward import Head

CHUNK_TOKENS = 192
Direction = Literal["forward", "reverse"]
# (logits of a chunk (c, V), targets of it (c,), then the same chunk of every `beside`) -> one value per token (c,)
TokenValue = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Scored:
    """Predictions for `rows` rows.

    logits (A, V), or None with `states` (A, H) and `head` mapping states to logits; targets (A,) the true tokens; row
    (A,) the row each token belongs to, ascending. `step_tokens` and `step_rows` count the answer tokens and rows of
    this stream in the whole optimiser step, over all micro-batches and processes: means are taken over them, so that
    micro-batches add up to a step.
    """

    logits: torch.Tensor | None
    targets: torch.Tensor
    row: torch.Tensor
    rows: int
    step_tokens: int
    step_rows: int | None = None
    states: torch.Tensor | None = None
    head: Head | None = None

    def per_token(self, value: TokenValue, *beside: torch.Tensor | Scored) -> torch.Tensor:
        """One number per answer token: (A,), with its gradient.

        `value(logits, targets, *others)` is called on chunks of tokens: logits (c, V) float32, targets (c,), and of
        every tensor or `Scored` in `beside` (no gradient flows there) the same c tokens, a `Scored` as its logits. It
        must treat every token on its own.
        """
        return self.weighed([value], [1.0], *beside)[0]

    def weighed(
        self, values: Sequence[TokenValue], weights: Sequence[float], *beside: torch.Tensor | Scored
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Several values over the same logits: their weighted sum (A,) with its gradient, and each alone without one.

        One way back through the output layer, however many values there are.
        """
        source = self.logits if self.logits is not None else self.states
        assert source is not None
        if self.logits is not None or not (source.requires_grad and torch.is_grad_enabled()):
            found = _chunked(source, self.head, self.targets, values, beside)
            total = torch.stack([weight * value for weight, value in zip(weights, found, strict=True)]).sum(0)
            return total, [value.detach() for value in found]
        total, *found = _HeadValues.apply(source, self.head, self.targets, tuple(values), tuple(weights), beside)  # pyright: ignore[reportGeneralTypeIssues]
        return total, found

    def chunk(self, start: int, stop: int) -> torch.Tensor:
        """Logits of some tokens without gradient: (stop - start, V) float32."""
        with torch.no_grad():
            return _logits(self.logits if self.logits is not None else self.states, self.head, start, stop)

    def token_nll(self) -> torch.Tensor:
        """Negative log-likelihood of every answer token, in nats: (A,)."""
        return self.per_token(nll)

    def token_kl(self, reference: Scored | torch.Tensor, *, direction: Direction = "forward") -> torch.Tensor:
        """KL divergence at every answer token against a reference, a `Scored` or logits (A, V): (A,).

        "forward": KL(P_theta || P_reference), the paper's; "reverse": KL(P_reference || P_theta), the public code's.
        """
        return self.per_token(KL[direction], reference)

    def sequence_nll(self) -> torch.Tensor:
        """Sum of the token NLL of each row: (rows,)."""
        return self.sum_rows(self.token_nll())

    def sum_rows(self, values: torch.Tensor) -> torch.Tensor:
        """(A,) -> the sum of each row: (rows,)."""
        return values.new_zeros(self.rows).index_add(0, self.row, values)

    def row_tokens(self) -> torch.Tensor:
        """Number of answer tokens of each row: (rows,), float."""
        return torch.bincount(self.row, minlength=self.rows).to(torch.float32)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """(A,) -> this micro-batch's share of the mean over the answer tokens of the optimiser step. Scalar."""
        return values.sum() / self.step_tokens

    def mean_rows(self, values: torch.Tensor) -> torch.Tensor:
        """(rows,) -> this micro-batch's share of the mean over the rows of the optimiser step. Scalar."""
        return values.sum() / (self.step_rows or self.rows)

    def mean_nll(self) -> torch.Tensor:
        """Token mean of the NLL over the optimiser step: this micro-batch's share of it. Scalar."""
        return self.mean(self.token_nll())

    def mean_kl(self, reference: Scored | torch.Tensor, *, direction: Direction = "forward") -> torch.Tensor:
        """Token mean of `token_kl` over the optimiser step: this micro-batch's share of it. Scalar."""
        return self.mean(self.token_kl(reference, direction=direction))


@dataclass(frozen=True)
class Sloped:
    """A per-token value that knows its own gradient: a fraction of the time that autograd takes over a vocabulary.

    `value` is a `TokenValue`; `slope` takes the same and returns the values (c,) and d value / d logits (c, V).
    """

    value: TokenValue
    slope: Callable[..., tuple[torch.Tensor, torch.Tensor]]

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return self.value(logits, targets, *others)


def _nll(logits: torch.Tensor, targets: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    return logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]


def _nll_slope(logits: torch.Tensor, targets: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    total = logits.logsumexp(-1, keepdim=True)
    values = (total - logits.gather(1, targets[:, None]))[:, 0]
    slope = (logits - total).exp_()
    slope[torch.arange(len(targets), device=targets.device), targets] -= 1
    return values, slope


def _kl_forward(logits: torch.Tensor, _: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    own = logits.log_softmax(-1)
    return (own.exp() * (own - reference.log_softmax(-1))).sum(-1)


def _kl_forward_slope(
    logits: torch.Tensor, _: torch.Tensor, reference: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    own = logits.log_softmax(-1)
    apart = own - reference.log_softmax(-1)
    chances = own.exp_()
    values = torch.einsum("cv,cv->c", chances, apart)
    return values, apart.sub_(values[:, None]).mul_(chances)


def _kl_reverse(logits: torch.Tensor, _: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    other = reference.log_softmax(-1)
    return (other.exp() * (other - logits.log_softmax(-1))).sum(-1)


def _kl_reverse_slope(
    logits: torch.Tensor, _: torch.Tensor, reference: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    own, other = logits.log_softmax(-1), reference.log_softmax(-1)
    chances = other.exp()
    values = torch.einsum("cv,cv->c", chances, other.sub_(own))
    return values, own.exp_().sub_(chances)


nll = Sloped(_nll, _nll_slope)  # -log P(target)
kl_forward = Sloped(_kl_forward, _kl_forward_slope)  # KL(P || P_reference)
kl_reverse = Sloped(_kl_reverse, _kl_reverse_slope)  # KL(P_reference || P)
KL: dict[str, Sloped] = {"forward": kl_forward, "reverse": kl_reverse}


def _logits(source: torch.Tensor | None, head: Head | None, start: int, stop: int) -> torch.Tensor:
    assert source is not None
    piece = source[start:stop]
    logits = piece if head is None else head(piece)
    return logits if logits.dtype == torch.float64 else logits.float()


def _beside(beside: Sequence[torch.Tensor | Scored], start: int, stop: int) -> list[torch.Tensor]:
    return [other.chunk(start, stop) if isinstance(other, Scored) else other[start:stop].detach() for other in beside]


def _chunked(
    source: torch.Tensor, head: Head | None, targets: torch.Tensor, values: Sequence[TokenValue], beside: Sequence[Any]
) -> list[torch.Tensor]:
    pieces: list[list[torch.Tensor]] = [[] for _ in values]
    for start, stop in _cuts(len(targets)):
        logits, others = _logits(source, head, start, stop), _beside(beside, start, stop)
        for found, value in zip(pieces, values, strict=True):
            found.append(value(logits, targets[start:stop], *others))
    return [torch.cat(found) for found in pieces]


def _with_slope(
    value: TokenValue, logits: torch.Tensor, targets: torch.Tensor, others: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The values (c,) and their gradient in the logits (c, V)."""
    if isinstance(value, Sloped):
        with torch.no_grad():
            return value.slope(logits, targets, *others)
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        found = value(leaf, targets, *others)
        return found.detach(), torch.autograd.grad(found.sum(), leaf)[0]


def _cuts(tokens: int) -> list[tuple[int, int]]:
    """Chunks of like size: products with a single row are both slow and inexact."""
    size = math.ceil(tokens / max(1, math.ceil(tokens / CHUNK_TOKENS)))
    return [(start, min(start + size, tokens)) for start in range(0, tokens, max(1, size))]


class _HeadValues(torch.autograd.Function):
    """Per-token values through a frozen output layer; keeps d sum / d states (A, H) instead of logits (A, V)."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        head: Head,
        targets: torch.Tensor,
        values: tuple[TokenValue, ...],
        weights: tuple[float, ...],
        beside: Any,
    ):
        found: list[list[torch.Tensor]] = [[] for _ in values]
        slopes = torch.empty_like(states)
        for start, stop in _cuts(len(targets)):
            others = _beside(beside, start, stop)
            with torch.enable_grad():
                piece = states[start:stop].detach().requires_grad_()
                logits = _logits(piece, head, 0, stop - start)
            total: torch.Tensor | None = None
            for pieces, value, weight in zip(found, values, weights, strict=True):
                per_token, slope = _with_slope(value, logits, targets[start:stop], others)
                pieces.append(per_token)
                slope = slope if weight == 1 else slope * weight
                total = slope if total is None else total.add_(slope)
            slopes[start:stop] = torch.autograd.grad(logits, piece, total)[0]
        ctx.save_for_backward(slopes)
        each = [torch.cat(pieces) for pieces in found]
        ctx.mark_non_differentiable(*each)
        return torch.stack([weight * value for weight, value in zip(weights, each, strict=True)]).sum(0), *each

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *_: Any):  # pyright: ignore[reportIncompatibleMethodOverride]
        (slopes,) = ctx.saved_tensors
        return slopes * upstream[:, None].to(slopes.dtype), None, None, None, None, None
