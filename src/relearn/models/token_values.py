"""Numbers per answer token out of what a model says there: its log-probability, and the moments of its distribution.

Logits over a whole vocabulary are large, so they exist for a part of the tokens, or of the vocabulary, at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

# Logits exist for so many tokens at a time; a GPU is kept waiting by fewer.
CHUNK_TOKENS = 128
GPU_CHUNK_TOKENS = 1024
# Log-probabilities alone need no more of the vocabulary than this at a time, so a weight is fetched once for a pack.
CPU_VOCABULARY = 4096
Head = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Predicted:
    """What a model says at the answer positions of its rows, row after row, already shifted (A answer tokens).

    Either logits (A, V), or states (A, H) with the `head` that makes logits of them. `layer` (A, H): the states after
    the decoder layer that was asked for.
    """

    logits: torch.Tensor | None
    states: torch.Tensor | None = None
    head: Head | None = None
    layer: torch.Tensor | None = None

    def logits_at(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Logits of some answer tokens, or of all: (stop - start, V) float32."""
        if self.logits is not None:
            return self.logits[start:stop].float()
        assert self.head is not None and self.states is not None
        return self.head(self.states[start:stop]).float()


def in_chunks(
    value: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], seen: Predicted, targets: torch.Tensor
) -> torch.Tensor:
    """`value` of logits (c, V) and targets (c,), with logits of so many tokens at a time as the device is good for."""
    size = CHUNK_TOKENS if targets.device.type == "cpu" else GPU_CHUNK_TOKENS
    cuts = [(at, at + size) for at in range(0, len(targets), size)]
    return torch.cat([value(seen.logits_at(at, to), targets[at:to]) for at, to in cuts])


def logprobs(seen: Predicted, targets: torch.Tensor) -> torch.Tensor:
    """(A, 1), on a CPU over a part of the vocabulary at a time where the output layer is a plain matrix in float32."""
    head, states = seen.head, seen.states
    if states is None or not isinstance(head, torch.nn.Linear):
        return in_chunks(logprob, seen, targets)
    if head.weight.dtype != torch.float32 or targets.device.type != "cpu":
        return in_chunks(logprob, seen, targets)
    whole = own = states.new_full((len(targets),), -torch.inf)
    for at in range(0, head.out_features, CPU_VOCABULARY):
        bias = None if head.bias is None else head.bias[at : at + CPU_VOCABULARY]
        logits = torch.nn.functional.linear(states, head.weight[at : at + CPU_VOCABULARY], bias)
        whole = torch.logaddexp(whole, logits.logsumexp(-1))
        here = (targets >= at) & (targets < at + logits.shape[1])
        taken = logits.gather(1, (targets - at).clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        own = torch.where(here, taken, own)
    return (own - whole)[:, None]


def logprob(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, targets[:, None]) - logits.logsumexp(-1, keepdim=True)


def token_scores(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(c, 4): log-probability, hit, mean and variance of ln p under p, where a chance of 0 weighs nothing."""
    own = logprob(logits, targets)
    hits = logits.argmax(-1, keepdim=True) == targets[:, None]
    every = logits.log_softmax(-1)
    chances = every.exp()
    every.masked_fill_(chances == 0, 0)
    mean = torch.einsum("cv,cv->c", chances, every)[:, None]
    variance = torch.einsum("cv,cv->c", chances, every.sub_(mean).square_())[:, None]
    return torch.cat([own, hits.to(own.dtype), mean, variance], 1)
