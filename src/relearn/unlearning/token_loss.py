"""Compute token losses from the logits of answer tokens in chunks, without keeping a full (A, V) tensor.

A: number of answer tokens of all rows, H: width of the model, V: vocabulary size, c: tokens of a chunk.
`engine/forward.py` removes padding and shifts by one position before. `AnswerLogits` has either logits (A, V), or the
states (A, H) before a frozen output layer; a loss takes both. With states, logits of at most `CHUNK_TOKENS` tokens
exist at a time. The gradient of the token losses with respect to the states is computed in the forward pass. Only this
gradient is kept for the backward pass, so memory grows with A x H instead of A x V.
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
# (logits (c, V), targets (c,), the same chunk of every other argument) -> one loss per token (c,)
TokenLoss = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class AnswerLogits:
    """Hold the model's predictions for the answer tokens of some rows.

    `logits` (A, V), or None with `states` (A, H) and `head`, which maps states to logits. `targets` (A,): the true
    tokens. `row` (A,): the index of the row of each token, ascending. `rows`: the number of rows. `step_tokens` and
    `step_rows` count the answer tokens and rows of this stream in the whole optimiser step, over all micro-batches and
    processes. Means divide by them, so that the losses of the micro-batches add up to the loss of the step.
    """

    logits: torch.Tensor | None
    targets: torch.Tensor
    row: torch.Tensor
    rows: int
    step_tokens: int
    step_rows: int | None = None
    states: torch.Tensor | None = None
    head: Head | None = None

    def token_loss(self, loss: TokenLoss, *others: torch.Tensor | AnswerLogits) -> torch.Tensor:
        """Compute one loss per answer token, with gradient: (A,).

        `loss(logits, targets, *others)` is called on chunks of c tokens: logits (c, V) float32, targets (c,), and the
        same tokens of every tensor or `AnswerLogits` in `others`. An `AnswerLogits` is passed as its logits. `others`
        get no gradient. The loss of a token must not depend on other tokens.
        """
        return self.weighted_token_loss([loss], [1.0], *others)[0]

    def weighted_token_loss(
        self, losses: Sequence[TokenLoss], weights: Sequence[float], *others: torch.Tensor | AnswerLogits
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Compute several token losses of the same logits: their weighted sum (A,), and each (A,) without gradient.

        The backward pass runs through the output layer only once for all losses.
        """
        source = self._source()
        if self.logits is not None or not (source.requires_grad and torch.is_grad_enabled()):
            values = _in_chunks(source, self.head, self.targets, losses, others)
            total = torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0)
            return total, [value.detach() for value in values]
        total, *values = _LossThroughHead.apply(  # pyright: ignore[reportGeneralTypeIssues]
            source, self.head, self.targets, tuple(losses), tuple(weights), others
        )
        return total, values

    def logits_chunk(self, start: int, stop: int) -> torch.Tensor:
        """Return the logits of the tokens `start` to `stop` without gradient: (stop - start, V) float32."""
        with torch.no_grad():
            return _logits(self._source(), self.head, start, stop)

    def token_nll(self) -> torch.Tensor:
        """Compute the negative log-likelihood of every answer token, in nats: (A,)."""
        return self.token_loss(nll)

    def token_kl(self, reference: AnswerLogits | torch.Tensor, *, direction: Direction = "forward") -> torch.Tensor:
        """Compute the KL divergence to a reference, an `AnswerLogits` or logits (A, V), at every token: (A,), nats.

        `direction` "forward" is KL(P_theta || P_reference), as in arXiv 2502.11190. "reverse" is
        KL(P_reference || P_theta), as in public code.
        """
        return self.token_loss(KL[direction], reference)

    def sequence_nll(self) -> torch.Tensor:
        """Sum the token NLL of each row: (rows,)."""
        return self.sum_rows(self.token_nll())

    def sum_rows(self, values: torch.Tensor) -> torch.Tensor:
        """Sum the token values (A,) of each row: (rows,)."""
        return values.new_zeros(self.rows).index_add(0, self.row, values)

    def row_tokens(self) -> torch.Tensor:
        """Count the answer tokens of each row: (rows,), float."""
        return torch.bincount(self.row, minlength=self.rows).to(torch.float32)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return this micro-batch's share of the mean of `values` (A,) over the tokens of the step. Scalar."""
        return values.sum() / self.step_tokens

    def mean_rows(self, values: torch.Tensor) -> torch.Tensor:
        """Return this micro-batch's share of the mean of `values` (rows,) over the rows of the step. Scalar."""
        return values.sum() / (self.step_rows or self.rows)

    def mean_nll(self) -> torch.Tensor:
        """Return this micro-batch's share of the mean token NLL of the step. Scalar."""
        return self.mean(self.token_nll())

    def _source(self) -> torch.Tensor:
        source = self.logits if self.logits is not None else self.states
        assert source is not None
        return source


@dataclass(frozen=True)
class ClosedFormGradient:
    """Compute a token loss with a closed-form gradient, which is faster than autograd over the vocabulary.

    `loss` is a `TokenLoss`. `with_gradient` takes the same arguments, and returns the losses (c,) and their gradient
    with respect to the logits (c, V).
    """

    loss: TokenLoss
    with_gradient: Callable[..., tuple[torch.Tensor, torch.Tensor]]

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return self.loss(logits, targets, *others)


def _nll(logits: torch.Tensor, targets: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    return logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]


def _nll_gradient(logits: torch.Tensor, targets: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    total = logits.logsumexp(-1, keepdim=True)
    values = (total - logits.gather(1, targets[:, None]))[:, 0]
    gradient = (logits - total).exp_()
    gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
    return values, gradient


def _kl_forward(logits: torch.Tensor, _: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    log_probs = logits.log_softmax(-1)
    return (log_probs.exp() * (log_probs - reference.log_softmax(-1))).sum(-1)


def _kl_forward_gradient(
    logits: torch.Tensor, _: torch.Tensor, reference: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs = logits.log_softmax(-1)
    log_ratio = log_probs - reference.log_softmax(-1)
    probs = log_probs.exp_()
    values = torch.einsum("cv,cv->c", probs, log_ratio)
    return values, log_ratio.sub_(values[:, None]).mul_(probs)


def _kl_reverse(logits: torch.Tensor, _: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    reference_log_probs = reference.log_softmax(-1)
    return (reference_log_probs.exp() * (reference_log_probs - logits.log_softmax(-1))).sum(-1)


def _kl_reverse_gradient(
    logits: torch.Tensor, _: torch.Tensor, reference: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs, reference_log_probs = logits.log_softmax(-1), reference.log_softmax(-1)
    reference_probs = reference_log_probs.exp()
    values = torch.einsum("cv,cv->c", reference_probs, reference_log_probs.sub_(log_probs))
    return values, log_probs.exp_().sub_(reference_probs)


nll = ClosedFormGradient(_nll, _nll_gradient)  # -log P(target)
kl_forward = ClosedFormGradient(_kl_forward, _kl_forward_gradient)  # KL(P || P_reference)
kl_reverse = ClosedFormGradient(_kl_reverse, _kl_reverse_gradient)  # KL(P_reference || P)
KL: dict[str, ClosedFormGradient] = {"forward": kl_forward, "reverse": kl_reverse}


def _logits(source: torch.Tensor, head: Head | None, start: int, stop: int) -> torch.Tensor:
    chunk = source[start:stop]
    logits = chunk if head is None else head(chunk)
    return logits if logits.dtype == torch.float64 else logits.float()


def _other_chunks(others: Sequence[torch.Tensor | AnswerLogits], start: int, stop: int) -> list[torch.Tensor]:
    return [
        other.logits_chunk(start, stop) if isinstance(other, AnswerLogits) else other[start:stop].detach()
        for other in others
    ]


def _in_chunks(
    source: torch.Tensor, head: Head | None, targets: torch.Tensor, losses: Sequence[TokenLoss], others: Sequence[Any]
) -> list[torch.Tensor]:
    chunks: list[list[torch.Tensor]] = [[] for _ in losses]
    for start, stop in _chunk_bounds(len(targets)):
        logits, other_logits = _logits(source, head, start, stop), _other_chunks(others, start, stop)
        for values, loss in zip(chunks, losses, strict=True):
            values.append(loss(logits, targets[start:stop], *other_logits))
    return [torch.cat(values) for values in chunks]


def _with_gradient(
    loss: TokenLoss, logits: torch.Tensor, targets: torch.Tensor, others: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the token losses (c,) and their gradient with respect to the logits (c, V)."""
    if isinstance(loss, ClosedFormGradient):
        with torch.no_grad():
            return loss.with_gradient(logits, targets, *others)
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        values = loss(leaf, targets, *others)
        return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


def _chunk_bounds(tokens: int) -> list[tuple[int, int]]:
    """Cut the tokens into chunks of equal size, because matrix products with a single row are slow and less exact."""
    size = math.ceil(tokens / max(1, math.ceil(tokens / CHUNK_TOKENS)))
    return [(start, min(start + size, tokens)) for start in range(0, tokens, max(1, size))]


class _LossThroughHead(torch.autograd.Function):
    """Compute token losses through a frozen output layer.

    The backward pass keeps the gradient with respect to the states (A, H) instead of the logits (A, V).
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        head: Head,
        targets: torch.Tensor,
        losses: tuple[TokenLoss, ...],
        weights: tuple[float, ...],
        others: Any,
    ):
        chunks: list[list[torch.Tensor]] = [[] for _ in losses]
        gradients = torch.empty_like(states)
        for start, stop in _chunk_bounds(len(targets)):
            other_logits = _other_chunks(others, start, stop)
            with torch.enable_grad():
                leaf = states[start:stop].detach().requires_grad_()
                logits = _logits(leaf, head, 0, stop - start)
            total: torch.Tensor | None = None
            for values, loss, weight in zip(chunks, losses, weights, strict=True):
                value, gradient = _with_gradient(loss, logits, targets[start:stop], other_logits)
                values.append(value)
                gradient = gradient if weight == 1 else gradient * weight
                total = gradient if total is None else total.add_(gradient)
            gradients[start:stop] = torch.autograd.grad(logits, leaf, total)[0]
        ctx.save_for_backward(gradients)
        each = [torch.cat(values) for values in chunks]
        ctx.mark_non_differentiable(*each)
        return torch.stack([weight * value for weight, value in zip(weights, each, strict=True)]).sum(0), *each

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *_: Any):  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradients,) = ctx.saved_tensors
        return gradients * upstream[:, None].to(gradients.dtype), None, None, None, None, None
