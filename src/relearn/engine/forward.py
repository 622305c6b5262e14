"""Run a model over token rows and compute logits, log-probabilities and their moments at the answer tokens.

Rows are packed (`packing`); models that cannot be packed get right-padded rows. The LM head is applied only at the
positions that predict answer tokens. If the LM head is a plain frozen matrix, the forward pass stops before it:
`Predicted` then contains the hidden states, and logits are computed for one chunk of tokens, or one part of the
vocabulary, at a time. This saves memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch

from relearn.core import distributed
from relearn.core.distributed import is_sharded
from relearn.core.errors import InputError
from relearn.engine.model_support import (
    SHORTER_ROWS,
    at_answers,
    bare,
    bypassed,
    can_pack,
    changes_frequencies,
    check_positions,
    decoder_layers,
    frequency_limit,
    frozen_head,
    packed_output,
    padded_logits,
    reset_frequencies,
)
from relearn.engine.packing import TokenRow, pack, split_packs

# Maximum tokens of a pack.
CPU_PACK_TOKENS, GPU_PACK_TOKENS = 2048, 16384
# Tokens per chunk of logits. A GPU needs larger chunks to be fully used.
CHUNK_TOKENS, GPU_CHUNK_TOKENS = 128, 1024
# Size of the part of the vocabulary for which log-probabilities of a pack are computed at a time.
CPU_VOCABULARY = 4096

# The LM head: states (A, H) -> logits (A, V).
Head = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Predicted:
    """Store a model's predictions of the A answer tokens of its rows, row after row, already shifted.

    Contains either logits (A, V), or the hidden states (A, H) before the LM head and the `head` that maps them to
    logits. `layer` (A, H): output of the requested decoder layer.
    """

    logits: torch.Tensor | None
    states: torch.Tensor | None = None
    head: Head | None = None
    layer: torch.Tensor | None = None

    def logits_at(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Compute the logits of answer tokens start..stop: (stop - start, V), float32."""
        if self.logits is not None:
            return self.logits[start:stop].float()
        assert self.head is not None and self.states is not None
        return self.head(self.states[start:stop]).float()


def predict(
    model: Any, rows: Sequence[TokenRow], *, layer: int | None = None, head: torch.nn.Linear | None = None
) -> Predicted:
    """Run the forward passes of `rows` in packs; stop before the LM head if it is plain and frozen.

    `layer`: number of a decoder layer whose output is also returned; negative numbers count from the end. `head`: LM
    head to leave out although it is trained.
    """
    if getattr(bare(model), "takes_rows", False):
        return model(rows=rows, layer=layer)
    device = next(model.parameters()).device
    head = head or frozen_head(model)
    outputs, layers = [], []
    check_positions(bare(model).config, max(len(row.ids) for row in rows), way_out=SHORTER_ROWS)
    for numbers in _packs(model, [len(row.ids) for row in rows], device):
        part = [rows[number] for number in numbers]
        reset_frequencies(model)
        packs = can_pack(model, max(len(row.ids) for row in part))
        with _captured(model, layer) as captured, bypassed(head):
            if packs:
                packed = pack(part, device)
                outputs.append(packed_output(model, packed))
                layers += [states[0].index_select(0, packed.keep) for states in captured]
            else:
                outputs.append(padded_logits(model, part, device))
                layers += [at_answers(states, part) for states in captured]
    output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    states = torch.cat(layers) if layers else None
    if head is None:
        return Predicted(output, layer=states)
    return Predicted(None, output, head, layer=states)


def _packs(model: Any, lengths: Sequence[int], device: torch.device) -> list[list[int]]:
    """Split row numbers, in order, into packs; a row that changes the frequencies of RoPE is alone in its pack."""
    if not changes_frequencies(model, max(lengths)):
        # All processes must run a sharded model the same number of times, whatever the lengths of their rows.
        return split_packs(lengths, sys.maxsize if is_sharded(model) else pack_tokens(device))
    if is_sharded(model):
        problem = "rows change RoPE of this model by their length, which a model in shards cannot have"
        raise InputError(problem, where="unlearn.max_length", way_out="set it to the model's original length")
    limit = frequency_limit(bare(model).config) or 0
    parts = split_packs(lengths, pack_tokens(device))
    alike = (groupby(part, key=lambda number: number if lengths[number] > limit else -1) for part in parts)
    return [list(numbers) for part in alike for _, numbers in part]


def answer_logits(model: Any, rows: Sequence[TokenRow]) -> torch.Tensor:
    """Compute the logits (A, V), float32, that predict the answer tokens, row after row."""
    return predict(model, rows).logits_at()


def answer_targets(rows: Sequence[TokenRow], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the answer tokens (A,) and, for each, the number of its row (A,)."""
    targets = torch.tensor([token for row in rows for token in row.answer_ids], device=device)
    owner = torch.tensor([number for number, row in enumerate(rows) for _ in row.answer_ids], device=device)
    return targets, owner


@dataclass(frozen=True)
class TokenScores:
    """Store scores of a row's answer tokens: CPU tensors (answer tokens,).

    `logprobs`: natural log-probability of each token; `hits`: whether it is the most likely token; `mean`, `variance`:
    moments of the log-probability of a token drawn from the model's distribution at that position.
    """

    logprobs: torch.Tensor
    hits: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor


def answer_logprobs(
    model: Any, rows: Sequence[TokenRow], *, batch_tokens: int | None = None, tick: Any = None
) -> list[torch.Tensor]:
    """Compute the log-probability of every answer token: per row a CPU tensor (answer tokens,), in the order of `rows`.

    `batch_tokens`: maximum tokens of a pack; None uses the default of the device. Packs are divided among processes;
    the packs are the same for any number of processes.
    """
    return [columns[:, 0] for columns in _per_token(model, rows, logprobs, batch_tokens=batch_tokens, tick=tick)]


def answer_scores(
    model: Any, rows: Sequence[TokenRow], *, batch_tokens: int | None = None, tick: Any = None
) -> list[TokenScores]:
    """Compute the `TokenScores` of every row, in the order of `rows`. Arguments as in `answer_logprobs`.

    Rows with the same prompt (one question, several answers) are in the same pack, so the prompt is computed once.
    """
    score = partial(in_chunks, token_scores)
    measured = _per_token(model, rows, score, batch_tokens=batch_tokens, tick=tick)
    return [TokenScores(columns[:, 0], columns[:, 1] > 0, columns[:, 2], columns[:, 3]) for columns in measured]


def likeliest_tokens(model: Any, rows: Sequence[TokenRow]) -> list[torch.Tensor]:
    """Compute the most likely token at every answer position, given the tokens before it: per row (answer tokens,)."""
    score = partial(in_chunks, lambda logits, _: logits.argmax(-1, keepdim=True))
    return [columns[:, 0] for columns in _per_token(model, rows, score, batch_tokens=None, tick=None)]


def in_chunks(
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], predicted: Predicted, targets: torch.Tensor
) -> torch.Tensor:
    """Apply `score` to logits (c, V) and targets (c,) of one chunk of tokens at a time; concatenate the results."""
    size = CHUNK_TOKENS if targets.device.type == "cpu" else GPU_CHUNK_TOKENS
    cuts = [(start, start + size) for start in range(0, len(targets), size)]
    return torch.cat([score(predicted.logits_at(start, stop), targets[start:stop]) for start, stop in cuts])


def logprobs(predicted: Predicted, targets: torch.Tensor) -> torch.Tensor:
    """Compute log-probabilities (A, 1) of the targets (A,).

    On a CPU with a plain float32 LM head, one part of the vocabulary is computed at a time for all tokens, so the
    weights of the LM head are read once per pack.
    """
    head, states = predicted.head, predicted.states
    if states is None or not isinstance(head, torch.nn.Linear):
        return in_chunks(logprob, predicted, targets)
    if head.weight.dtype != torch.float32 or targets.device.type != "cpu":
        return in_chunks(logprob, predicted, targets)
    total = own = states.new_full((len(targets),), -torch.inf)
    for start in range(0, head.out_features, CPU_VOCABULARY):
        bias = None if head.bias is None else head.bias[start : start + CPU_VOCABULARY]
        logits = torch.nn.functional.linear(states, head.weight[start : start + CPU_VOCABULARY], bias)
        total = torch.logaddexp(total, logits.logsumexp(-1))
        in_part = (targets >= start) & (targets < start + logits.shape[1])
        part_own = logits.gather(1, (targets - start).clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        own = torch.where(in_part, part_own, own)
    return (own - total)[:, None]


def logprob(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute the log-probabilities (c, 1) of targets (c,) under logits (c, V)."""
    return logits.gather(1, targets[:, None]) - logits.logsumexp(-1, keepdim=True)


def token_scores(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute scores (c, 4): log-probability, hit, mean and variance of ln p under p; ln p is set to 0 where p = 0."""
    own = logprob(logits, targets)
    hits = logits.argmax(-1, keepdim=True) == targets[:, None]
    every = logits.log_softmax(-1)
    probs = every.exp()
    every.masked_fill_(probs == 0, 0)
    mean = torch.einsum("cv,cv->c", probs, every)[:, None]
    variance = torch.einsum("cv,cv->c", probs, every.sub_(mean).square_())[:, None]
    return torch.cat([own, hits.to(own.dtype), mean, variance], 1)


@torch.no_grad()
def _per_token(
    model: Any,
    rows: Sequence[TokenRow],
    score: Callable[[Predicted, torch.Tensor], torch.Tensor],
    *,
    batch_tokens: int | None,
    tick: Any,
) -> list[torch.Tensor]:
    """Compute `score` (A, k) at all answer tokens; return a CPU tensor (answer tokens, k) per row."""
    device = next(model.parameters()).device
    packs = _by_prompt(rows, batch_tokens or pack_tokens(device))
    done = 0

    def measure(numbers: Sequence[int]) -> torch.Tensor:
        nonlocal done
        part = [rows[number] for number in numbers]
        predicted = predict(model, part)
        targets, _ = answer_targets(part, device)
        columns = score(predicted, targets).cpu()
        done += len(part)
        if tick:
            tick(min(done * distributed.processes(), len(rows)), len(rows))
        return columns

    # A sharded model needs all processes for each forward pass, so every process runs all packs.
    measured = [measure(part) for part in packs] if is_sharded(model) else distributed.spread(packs, measure)
    by_row: dict[int, torch.Tensor] = {}
    for numbers, columns in zip(packs, measured, strict=True):
        by_row.update(zip(numbers, columns.split([rows[number].answer_tokens for number in numbers]), strict=True))
    return [by_row[number] for number in range(len(rows))]


def _by_prompt(rows: Sequence[TokenRow], limit: int) -> list[list[int]]:
    """Split row numbers into packs of about `limit` tokens, sorted by length; rows of one prompt share a pack."""
    prompts: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        prompts.setdefault(row.ids[: row.answer_start], []).append(number)
    groups = sorted(prompts.items(), key=lambda item: max(len(rows[number].ids) for number in item[1]))
    sizes = [len(prompt) + sum(rows[number].answer_tokens for number in numbers) for prompt, numbers in groups]
    return [[number for group in part for number in groups[group][1]] for part in split_packs(sizes, limit)]


@contextmanager
def _captured(model: Any, layer: int | None) -> Iterator[list[torch.Tensor]]:
    """Collect the outputs (1, T, H) of one decoder layer, in the order of the forward passes."""
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


def pack_tokens(device: torch.device) -> int:
    """Return the maximum number of tokens of a pack on `device`."""
    return CPU_PACK_TOKENS if device.type == "cpu" else GPU_PACK_TOKENS
