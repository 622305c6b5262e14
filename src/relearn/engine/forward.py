"""Run a model over rows of tokens without computing a padding token, a shared beginning twice or an unneeded logit.

Rows are packed (`packing.py`). The output layer is either left to the caller, who gets the states in front of it at the
answer positions and applies it in chunks (`Predicted.head`), or applied at those positions alone. Whether a model keeps
packed rows apart is tried on it once; one that does not gets right-padded batches behind the same result.

Numbers per answer token out of what a model says there: its log-probability, and the moments of its distribution.

Logits over a whole vocabulary are large, so they exist for a part of the tokens, or of the vocabulary, at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from relearn.core import distributed
from relearn.engine.model_support import (
    at_answers,
    bare,
    bypassed,
    can_pack,
    decoder_layers,
    frozen_head,
    packed_output,
    padded_logits,
)
from relearn.engine.packing import TokenRow, pack
from relearn.models.sharding import is_sharded

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


__all__ = [
    "Predicted",
    "TokenRow",
    "TokenScores",
    "answer_logits",
    "answer_logprobs",
    "answer_scores",
    "answer_targets",
    "predict",
]

CPU_PACK_TOKENS = 2048
GPU_PACK_TOKENS = 16384


def predict(
    model: Any, rows: Sequence[TokenRow], *, layer: int | None = None, head: torch.nn.Linear | None = None
) -> Predicted:
    """One pass over `rows`, packed, up to the states in front of the output layer where that can be left out.

    `layer` (from 0; negative from the end) asks for the states after that decoder layer as well; `head` for the states
    in front of an output layer that is trained.
    """
    if getattr(bare(model), "takes_rows", False):
        return model(rows=rows, layer=layer)
    device = next(model.parameters()).device
    head = head or frozen_head(model)
    found, layers = [], []
    for part in _packs(rows, _pack_limit(model, device)):
        packs = can_pack(model, max(len(row.ids) for row in part))
        with _captured(model, layer) as captured, bypassed(head):
            if packs:
                packed = pack(part, device)
                found.append(packed_output(model, packed))
                layers += [states[0].index_select(0, packed.keep) for states in captured]
            else:
                found.append(padded_logits(model, part, device))
                layers += [at_answers(states, part) for states in captured]
    output = torch.cat(found) if len(found) > 1 else found[0]
    states = torch.cat(layers) if layers else None
    if head is None:
        return Predicted(output, layer=states)
    return Predicted(None, output, head, layer=states)


def answer_logits(model: Any, rows: Sequence[TokenRow]) -> torch.Tensor:
    """Logits that predict every answer token, row after row, already shifted: (tokens, vocab), float32."""
    return predict(model, rows).logits_at()


def answer_targets(rows: Sequence[TokenRow], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """The answer tokens themselves and the row each belongs to: (tokens,) and (tokens,)."""
    targets = torch.tensor([token for row in rows for token in row.answer_ids], device=device)
    owner = torch.tensor([number for number, row in enumerate(rows) for _ in row.answer_ids], device=device)
    return targets, owner


@dataclass(frozen=True)
class TokenScores:
    """What a model thinks of a row's answer: CPU tensors (answer tokens,).

    `logprobs`: natural log-probability of each token; `hits`: whether it was the likeliest; `mean`, `variance`: of the
    log-probability of a token drawn from the model's distribution at that place.
    """

    logprobs: torch.Tensor
    hits: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor


def answer_logprobs(
    model: Any, rows: Sequence[TokenRow], *, batch_tokens: int | None = None, tick: Any = None
) -> list[torch.Tensor]:
    """Log-probability of every answer token, a (answer tokens,) CPU tensor per row, in the order of `rows`.

    Rows go through the model in packs of some `batch_tokens`, as many as its device is good for when that is None.
    Several processes share the packs out; the packs themselves are the same for any number of them.
    """
    return [columns[:, 0] for columns in _per_token(model, rows, logprobs, batch_tokens, tick)]


def answer_scores(
    model: Any, rows: Sequence[TokenRow], *, batch_tokens: int | None = None, tick: Any = None
) -> list[TokenScores]:
    """All that metrics want to know of the answer tokens, from one pass over the model; in the order of `rows`.

    Rows with the same prompt (one question, several answers) go together, so the prompt is computed once.
    """
    found = _per_token(model, rows, partial(in_chunks, token_scores), batch_tokens, tick)
    return [TokenScores(columns[:, 0], columns[:, 1] > 0, columns[:, 2], columns[:, 3]) for columns in found]


# (what the model says at the answer tokens (A,), their targets (A,)) -> numbers per token (A, k)
PerToken = Callable[[Predicted, torch.Tensor], torch.Tensor]


@torch.no_grad()
def _per_token(
    model: Any, rows: Sequence[TokenRow], value: PerToken, batch_tokens: int | None, tick: Any
) -> list[torch.Tensor]:
    """`value` at every answer token: a (answer tokens, k) CPU tensor per row."""
    device = next(model.parameters()).device
    packs = _by_prompt(rows, batch_tokens or (CPU_PACK_TOKENS if device.type == "cpu" else GPU_PACK_TOKENS))
    done = 0

    def measure(numbers: Sequence[int]) -> torch.Tensor:
        nonlocal done
        part = [rows[number] for number in numbers]
        seen = predict(model, part)
        targets, _ = answer_targets(part, device)
        columns = value(seen, targets).cpu()
        done += len(part)
        if tick:
            tick(min(done * distributed.processes(), len(rows)), len(rows))
        return columns

    # A model in shards runs in all processes at once or not at all.
    measured = [measure(part) for part in packs] if is_sharded(model) else distributed.spread(packs, measure)
    found: dict[int, torch.Tensor] = {}
    for numbers, columns in zip(packs, measured, strict=True):
        pieces = columns.split([rows[number].answer_tokens for number in numbers])
        found.update(zip(numbers, pieces, strict=True))
    return [found[number] for number in range(len(rows))]


def _by_prompt(rows: Sequence[TokenRow], limit: int) -> list[list[int]]:
    """Places of rows in packs of some `limit` tokens, by length; rows of a prompt together, the prompt counted once."""
    prompts: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        prompts.setdefault(row.ids[: row.answer_start], []).append(number)
    packs: list[list[int]] = []
    room = 0
    for prompt, numbers in sorted(prompts.items(), key=lambda item: max(len(rows[number].ids) for number in item[1])):
        size = len(prompt) + sum(rows[number].answer_tokens for number in numbers)
        if not packs or size > room:
            packs.append([])
            room = limit
        packs[-1] += numbers
        room -= size
    return packs


@contextmanager
def _captured(model: Any, layer: int | None) -> Iterator[list[torch.Tensor]]:
    """The outputs (1, T, H) of one decoder layer, in the order of the passes."""
    captured: list[torch.Tensor] = []
    if layer is None:
        yield captured
        return
    hook = decoder_layers(model)[layer].register_forward_hook(
        lambda _module, _inputs, output: captured.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        yield captured
    finally:
        hook.remove()


def _pack_limit(model: Any, device: torch.device) -> int:
    if is_sharded(model):
        return sys.maxsize  # The processes must make equally many passes, however long their rows.
    return CPU_PACK_TOKENS if device.type == "cpu" else GPU_PACK_TOKENS


def _packs(rows: Sequence[TokenRow], limit: int) -> Iterator[list[TokenRow]]:
    part: list[TokenRow] = []
    size = 0
    for row in rows:
        if part and size + len(row.ids) > limit:
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row.ids)
    if part:
        yield part
