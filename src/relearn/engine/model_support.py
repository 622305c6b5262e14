"""What does not work with every model is tried on it once: packed rows, an output layer that can be left out.

One pass of a model over rows, packed or padded, up to its logits or to the states in front of its output layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from relearn.core.console import note
from relearn.engine.packing import ATTENTION, Packed, TokenRow, pack
from relearn.models.sharding import is_sharded


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


def decoder_layers(model: Any) -> Any:
    """The list of decoder layers, found by its length."""
    inner = bare(model)
    count = inner.config.get_text_config().num_hidden_layers
    for module in inner.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise ValueError("this model has no list of decoder layers")


@contextmanager
def bypassed(head: Any) -> Iterator[None]:
    """The output layer hands on what it is given."""
    if head is None:
        yield
        return
    head.forward = lambda states: states
    try:
        yield
    finally:
        del head.forward


def packed_output(model: Any, packed: Packed) -> torch.Tensor:
    """(A, V) logits, or (A, H) states when the output layer is bypassed."""
    # Given a mask of four dimensions transformers builds none; the layout says what a token sees.
    unused = torch.zeros(1, 1, 1, 1, device=packed.ids.device)
    output = model(
        input_ids=packed.ids,
        position_ids=packed.positions,
        attention_mask=unused,
        use_cache=False,
        logits_to_keep=packed.keep,
        row_layout=packed.layout,
    )
    return output.logits[0]


def padded_logits(model: Any, rows: Sequence[TokenRow], device: torch.device) -> torch.Tensor:
    """Right padding with a mask built from lengths, never from token ids (pad may equal eos)."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows], device=device)
    lengths = torch.tensor([len(row.ids) for row in rows], device=device)
    mask = (torch.arange(longest, device=device)[None] < lengths[:, None]).long()
    return at_answers(model(input_ids=ids, attention_mask=mask, use_cache=False).logits, rows)


def at_answers(padded: torch.Tensor, rows: Sequence[TokenRow]) -> torch.Tensor:
    """(rows, length, ...) -> the places that predict answer tokens, row after row."""
    return torch.cat([padded[n, row.answer_start - 1 : len(row.ids) - 1] for n, row in enumerate(rows)])


_PACKS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_HEADS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
# Rows to try a model on, as sevenths of its vocabulary. Its first tokens are often control tokens, and at those, out of
# their order, some models (SmolLM2) are so unsteady that rounding to half precision alone moves the logits by eight.
_TRIED = ((1, 2, 3, 1, 2, 4, 5, 3, 2), 6), ((1, 2, 3, 1, 2, 4, 6, 1, 2, 4), 7)
# As a share of what another row in front of a row changes: half precision rounds to a tenth of it after thirty layers.
_ROUNDING, _ROUNDING_OF_HALVES = 0.01, 0.25


@dataclass(frozen=True)
class Trial:
    """Two short rows that begin alike, to try on a model what may not work with every one.

    `logits` (answer tokens, V): what it says of each alone; `swing`: how far the other row, in front of it, moves that.
    """

    rows: list[TokenRow]
    logits: torch.Tensor
    swing: torch.Tensor

    def agrees(self, found: torch.Tensor) -> bool:
        """Whether logits that the model gave another way, in its own number format, are these but for rounding."""
        share = _ROUNDING if _whole(found) else _ROUNDING_OF_HALVES
        return bool((found.float() - self.logits).norm() <= share * self.swing)


def trial(model: Any) -> Trial:
    device = next(model.parameters()).device
    rows = _trial_rows(model)
    behind = [
        TokenRow(row.id, other.ids + row.ids, len(other.ids) + row.answer_start)
        for row, other in zip(rows, reversed(rows), strict=True)
    ]
    alone, moved = (torch.cat([padded_logits(model, [row], device) for row in some]).float() for some in (rows, behind))
    return Trial(rows, alone, (moved - alone).norm())


def _trial_rows(model: Any) -> list[TokenRow]:
    vocabulary = bare(model).config.get_text_config().vocab_size
    return [
        TokenRow(str(number), tuple(max(1, vocabulary // 7) * token % vocabulary for token in ids), start)
        for number, (ids, start) in enumerate(_TRIED)
    ]


def can_pack(model: Any, longest: int = 0) -> bool:
    """Whether the model keeps packed rows of up to `longest` tokens apart: tried once, against one row at a time."""
    inner = bare(model)
    # What a window hides from a longer row would have to be part of the layout.
    window = getattr(inner.config.get_text_config(), "sliding_window", None)
    if window and longest > window:
        return False
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
    if not {"position_ids", "logits_to_keep"} <= set(parameters) or inner.config._attn_implementation != "sdpa":
        return inner.config._attn_implementation == ATTENTION
    capped = getattr(inner.config.get_text_config(), "attn_logit_softcapping", None)
    return not capped and inner._can_set_attn_implementation()


@torch.no_grad()
def _keeps_apart(model: Any, inner: Any) -> bool:
    device = next(inner.parameters()).device
    before = inner.config._attn_implementation
    try:
        with evaluating(model):
            tried = trial(model)
            inner.set_attn_implementation(ATTENTION)
            apart = tried.agrees(packed_output(model, pack(tried.rows, device)))
    except (TypeError, ValueError, IndexError):
        apart = False
    if not apart:
        inner.set_attn_implementation(before)
        note("this model does not keep packed rows apart: they are padded, which is slower and changes no result")
    return apart


@torch.no_grad()
def _head_is_all(inner: Any, head: torch.nn.Linear) -> bool:
    device = next(inner.parameters()).device
    with evaluating(inner):
        rows = _trial_rows(inner)
        logits = padded_logits(inner, rows, device)
        with bypassed(head):
            states = padded_logits(inner, rows, device)
        if states.shape[-1] != head.in_features:
            return False
        found = head(states.to(head.weight.dtype))
        # The same states through the same matrix: nothing but its own rounding is between the two.
        tolerance = 1e-3 if _whole(found) else 2e-2
        return bool((found - logits).abs().max() <= tolerance * (1 + logits.abs().max()))


def _whole(numbers: torch.Tensor) -> bool:
    return numbers.dtype in (torch.float32, torch.float64)
