"""Run a model over rows of tokens without computing a padding token, a shared beginning twice or an unneeded logit.

Rows are packed (`packing.py`). The output layer is either left to the caller, who gets the states in front of it at the
answer positions and applies it in chunks (`Predicted.head`), or applied at those positions alone. Whether a model keeps
packed rows apart is tried on it once; one that does not gets right-padded batches behind the same result.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch

from relearn import parallel
from relearn.models.packing import ATTENTION, Packed, TokenRow, pack
from relearn.models.shards import is_sharded
from relearn.models.token_values import Predicted, in_chunks, logprobs, token_scores

__all__ = [
    "Predicted", "TokenRow", "TokenScores", "answer_logits", "answer_logprobs", "answer_scores", "answer_targets",
    "can_pack", "predict",
]  # fmt: skip

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
    packs = can_pack(model)
    found, layers = [], []
    for part in _packs(rows, _pack_limit(model, device)):
        with _captured(model, layer) as captured, _bypassed(head):
            if packs:
                packed = pack(part, device)
                found.append(_packed_output(model, packed))
                layers += [states[0].index_select(0, packed.keep) for states in captured]
            else:
                found.append(_padded_logits(model, part, device))
                layers += [_at_answers(states, part) for states in captured]
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
            tick(min(done * parallel.processes(), len(rows)), len(rows))
        return columns

    # A model in shards runs in all processes at once or not at all.
    measured = [measure(part) for part in packs] if is_sharded(model) else parallel.spread(packs, measure)
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


def bare(model: Any) -> Any:
    """The model itself, without what PEFT or data parallelism wrapped around it."""
    while hasattr(model, "module") and not hasattr(model, "get_output_embeddings"):
        model = model.module
    return getattr(model, "get_base_model", lambda: model)()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout; afterwards in the mode the model was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


_PACKS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_HEADS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_PROBE = (TokenRow("a", (1, 2, 3, 1, 2, 4, 5, 3), 6), TokenRow("b", (1, 2, 3, 1, 2, 4, 6, 1, 2), 7))


def can_pack(model: Any) -> bool:
    """Whether the model keeps packed rows apart: tried once on two short rows, against one row at a time."""
    inner = bare(model)
    if inner not in _PACKS:
        _PACKS[inner] = _takes_packs(inner) and _keeps_apart(model, inner)
    return _PACKS[inner]


def frozen_head(model: Any) -> torch.nn.Linear | None:
    """The output layer, where it is a plain frozen matrix and all that the model does to its states; else None."""
    head = plain_head(model)
    return None if head is None or any(weight.requires_grad for weight in head.parameters()) else head


def plain_head(model: Any) -> torch.nn.Linear | None:
    """The output layer, trained or not, where it is a plain matrix and all that the model does to its states.

    None for a model in shards, whose output layer is only whole while the model itself runs.
    """
    if is_sharded(model):
        return None
    inner = bare(model)
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if type(head) is not torch.nn.Linear or type(head.weight.data) is not torch.Tensor or "forward" in vars(head):
        return None
    if head.weight.shape != (head.out_features, head.in_features):
        return None
    if inner not in _HEADS:
        _HEADS[inner] = _head_is_all(inner, head)
    return head if _HEADS[inner] else None


def _takes_packs(inner: Any) -> bool:
    parameters = inspect.signature(inner.forward).parameters
    config = inner.config.get_text_config()
    if not {"position_ids", "logits_to_keep"} <= set(parameters) or inner.config._attn_implementation != "sdpa":
        return inner.config._attn_implementation == ATTENTION
    # A window shorter than a row would have to be part of the layout.
    if getattr(config, "sliding_window", None) or getattr(config, "attn_logit_softcapping", None):
        return False
    return inner._can_set_attn_implementation()


@torch.no_grad()
def _keeps_apart(model: Any, inner: Any) -> bool:
    device = next(inner.parameters()).device
    before = inner.config._attn_implementation
    try:
        with evaluating(model):
            singles = torch.cat([_padded_logits(model, [row], device) for row in _PROBE])
            inner.set_attn_implementation(ATTENTION)
            apart = _alike(_packed_output(model, pack(_PROBE, device)), singles)
    except (TypeError, ValueError, IndexError):
        apart = False
    if not apart:
        inner.set_attn_implementation(before)
    return apart


@torch.no_grad()
def _head_is_all(inner: Any, head: torch.nn.Linear) -> bool:
    device = next(inner.parameters()).device
    with evaluating(inner):
        logits = _padded_logits(inner, _PROBE[:1], device)
        with _bypassed(head):
            states = _padded_logits(inner, _PROBE[:1], device)
        return states.shape[-1] == head.in_features and _alike(head(states.to(head.weight.dtype)), logits)


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for rounding, which in half precision reaches a few hundredths of the largest logit."""
    tolerance = 1e-3 if one.dtype in (torch.float32, torch.float64) else 5e-2
    return bool((one - other).abs().max() <= tolerance * (1 + other.abs().max()))


@contextmanager
def _bypassed(head: Any) -> Iterator[None]:
    """The output layer hands on what it is given."""
    if head is None:
        yield
        return
    head.forward = lambda states: states
    try:
        yield
    finally:
        del head.forward


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


def decoder_layers(model: Any) -> Any:
    """The list of decoder layers, found by its length."""
    inner = bare(model)
    count = inner.config.get_text_config().num_hidden_layers
    for module in inner.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise ValueError("this model has no list of decoder layers")


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


def _packed_output(model: Any, packed: Packed) -> torch.Tensor:
    """(A, V) logits, or (A, H) states when the output layer is bypassed."""
    # Given a mask of four dimensions transformers builds none; the layout says what a token sees.
    unused = torch.zeros(1, 1, 1, 1, device=packed.ids.device)
    output = model(
        input_ids=packed.ids, position_ids=packed.positions, attention_mask=unused, use_cache=False,
        logits_to_keep=packed.keep, row_layout=packed.layout,
    )  # fmt: skip
    return output.logits[0]


def _padded_logits(model: Any, rows: Sequence[TokenRow], device: torch.device) -> torch.Tensor:
    """Right padding with a mask built from lengths, never from token ids (pad may equal eos)."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows], device=device)
    lengths = torch.tensor([len(row.ids) for row in rows], device=device)
    mask = (torch.arange(longest, device=device)[None] < lengths[:, None]).long()
    return _at_answers(model(input_ids=ids, attention_mask=mask, use_cache=False).logits, rows)


def _at_answers(padded: torch.Tensor, rows: Sequence[TokenRow]) -> torch.Tensor:
    """(rows, length, ...) -> the places that predict answer tokens, row after row."""
    return torch.cat([padded[n, row.answer_start - 1 : len(row.ids) - 1] for n, row in enumerate(rows)])
