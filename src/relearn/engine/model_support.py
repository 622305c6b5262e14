"""Test whether a model supports packed rows and a separate LM head; run packed and padded forward passes.

Both tests run once per model, on two short rows, and compare with padded forward passes. Results are kept while the
model is in memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch

from relearn.core.console import note
from relearn.core.distributed import is_sharded
from relearn.core.errors import InputError
from relearn.engine.packing import ATTENTION, Packed, TokenRow, pack

_PACKS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_HEADS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_NOTED: WeakSet[Any] = WeakSet()
# Tokens of the two test rows, in sevenths of the vocabulary size, and the positions where their answers start. Control
# tokens, often the first of a vocabulary, are avoided: with control tokens in unusual order, some models (SmolLM2) are
# so unstable that rounding to half precision alone changes logits by 8.
_TEST_ROWS = ((1, 2, 3, 1, 2, 4, 5, 3, 2), 6), ((1, 2, 3, 1, 2, 4, 6, 1, 2, 4), 7)
# Largest accepted difference in full and in half precision, as a share of `reference_scale`. Rounding in half
# precision reaches a tenth of `reference_scale` after 30 layers.
_ROUNDING, _HALF_ROUNDING = 0.01, 0.25


def bare(model: Any) -> Any:
    """Remove the wrappers of PEFT and data parallelism from a model."""
    while hasattr(model, "module") and not hasattr(model, "get_output_embeddings"):
        model = model.module
    return getattr(model, "get_base_model", lambda: model)()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Set the model to eval mode; restore its previous mode on exit."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def position_limit(config: Any) -> int | None:
    """Return the number of positions in a model's table; None for models that compute them (RoPE, ALiBi)."""
    text = config.get_text_config()
    return None if getattr(text, "rope_parameters", None) else getattr(text, "max_position_embeddings", None)


# How to make room for an answer, and for a row that is given or written and read as it is.
SHORTER_ANSWERS = "lower generate.max_new_tokens, or shorten the texts"
SHORTER_ROWS = "shorten the texts (data.generic replaces the built-in rows), or take a model with more positions"


def check_positions(
    config: Any, tokens: int, *, name: str = "the model", where: str | None = None, way_out: str = SHORTER_ANSWERS
) -> None:
    """Raise InputError for a row of `tokens` tokens, prompt and answer, that has more tokens than positions."""
    limit = position_limit(config)
    if limit is not None and tokens > limit:
        problem = f"a prompt with its answer may have {tokens} tokens, and {name} has {limit} positions"
        raise InputError(problem, where=where, way_out=way_out)


def frequency_limit(config: Any) -> int | None:
    """Return the longest row that RoPE treats like short ones; None where length does not change its frequencies.

    LongRoPE and dynamic NTK have other frequencies for all positions of a longer row, and of all rows beside it.
    """
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    limits = []
    for own in (parameters, *(value for value in parameters.values() if isinstance(value, dict))):
        if own.get("rope_type") == "longrope":
            limits.append(own.get("original_max_position_embeddings") or text.max_position_embeddings)
        elif "dynamic" in own.get("rope_type", ""):
            limits.append(text.max_position_embeddings)
    return min(limits, default=None)


def changes_frequencies(model: Any, longest: int) -> bool:
    """Return whether a row of `longest` tokens has other RoPE frequencies than short rows; note this once per model."""
    inner = bare(model)
    limit = frequency_limit(inner.config)
    if limit is None or longest <= limit:
        return False
    if inner not in _NOTED:
        _NOTED.add(inner)
        note(
            f"RoPE of this model changes beyond {limit} tokens: longer rows run alone, slower and with the same result"
        )
    return True


def reset_frequencies(model: Any) -> None:
    """Set RoPE back to the frequencies of short rows; dynamic NTK keeps those of the longest row so far."""
    if frequency_limit(bare(model).config) is None:
        return
    for module in bare(model).modules():
        for name in [name for name, _ in module.named_buffers(recurse=False) if name.endswith("inv_freq")]:
            prefix = name.removesuffix("inv_freq")
            original = getattr(module, f"{prefix}original_inv_freq", None)
            if original is not None and not prefix.endswith("original_"):
                getattr(module, name).copy_(original)
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def decoder_layers(model: Any) -> Any:
    """Find the ModuleList of decoder layers by its length. Raises ValueError if there is none."""
    inner = bare(model)
    count = inner.config.get_text_config().num_hidden_layers
    for module in inner.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise ValueError("this model has no list of decoder layers")


@contextmanager
def bypassed(head: Any) -> Iterator[None]:
    """Make the LM head return its input, so that the model returns hidden states; None changes nothing."""
    if head is None:
        yield
        return
    head.forward = lambda states: states
    try:
        yield
    finally:
        del head.forward


def packed_output(model: Any, packed: Packed) -> torch.Tensor:
    """Run the forward pass of a pack; return logits (A, V), or hidden states (A, H) if the LM head is bypassed."""
    return layout_logits(model, packed.layout, ids=packed.ids, positions=packed.positions, keep=packed.keep)


def layout_logits(
    model: Any, layout: Any, *, ids: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor
) -> torch.Tensor:
    """Run a sequence with the attention of `layout`: ids, positions (1, T) to logits (A, V) at the indices `keep`."""
    # A mask of four dimensions prevents transformers from building one. `layout` defines the visible keys instead.
    unused = torch.zeros(1, 1, 1, 1, device=ids.device)
    output = model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=unused,
        use_cache=False,
        logits_to_keep=keep,
        row_layout=layout,
    )
    return output.logits[0]


def padded_logits(model: Any, rows: Sequence[TokenRow], device: torch.device) -> torch.Tensor:
    """Run right-padded rows; return logits (A, V). The mask uses row lengths, because the pad token may equal eos."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows], device=device)
    lengths = torch.tensor([len(row.ids) for row in rows], device=device)
    mask = (torch.arange(longest, device=device)[None] < lengths[:, None]).long()
    return at_answers(model(input_ids=ids, attention_mask=mask, use_cache=False).logits, rows)


def at_answers(padded: torch.Tensor, rows: Sequence[TokenRow]) -> torch.Tensor:
    """Select the positions that predict answer tokens, row after row: (rows, length, ...) to (A, ...)."""
    return torch.cat([padded[n, row.answer_start - 1 : len(row.ids) - 1] for n, row in enumerate(rows)])


@dataclass(frozen=True)
class SupportCheck:
    """Store two short rows with a common prefix, and the model's logits (A, V) for each row alone.

    `reference_scale`: norm of the change of the logits if the other row precedes each row. A pack that mixes its rows
    has an error of this size.
    """

    rows: list[TokenRow]
    logits: torch.Tensor
    reference_scale: torch.Tensor

    def agrees(self, logits: torch.Tensor) -> bool:
        """Return whether `logits` (A, V), in the model's dtype, differ from the reference logits by rounding only."""
        share = _ROUNDING if _is_full_precision(logits) else _HALF_ROUNDING
        return bool((logits.float() - self.logits).norm() <= share * self.reference_scale)


def support_check(model: Any) -> SupportCheck:
    """Compute the reference logits of the two test rows."""
    device = next(model.parameters()).device
    rows = _test_rows(model)
    preceded = [
        TokenRow(row.id, other.ids + row.ids, len(other.ids) + row.answer_start)
        for row, other in zip(rows, reversed(rows), strict=True)
    ]
    alone = torch.cat([padded_logits(model, [row], device) for row in rows]).float()
    mixed = torch.cat([padded_logits(model, [row], device) for row in preceded]).float()
    return SupportCheck(rows, alone, (mixed - alone).norm())


def _test_rows(model: Any) -> list[TokenRow]:
    vocabulary = bare(model).config.get_text_config().vocab_size
    return [
        TokenRow(str(number), tuple(max(1, vocabulary // 7) * token % vocabulary for token in ids), start)
        for number, (ids, start) in enumerate(_TEST_ROWS)
    ]


def can_pack(model: Any, longest: int = 0) -> bool:
    """Test once per model whether packed rows do not affect each other.

    Return False also for rows longer than a sliding window, and for rows that change the frequencies of RoPE.
    """
    inner = bare(model)
    # `PackLayout` has no mask for a sliding window, which matters only for rows longer than the window.
    window = getattr(inner.config.get_text_config(), "sliding_window", None)
    if (window and longest > window) or changes_frequencies(model, longest):
        return False
    if inner not in _PACKS:
        _PACKS[inner] = _accepts_layouts(inner) and _keeps_rows_apart(model, inner)
    return _PACKS[inner]


def frozen_head(model: Any) -> torch.nn.Linear | None:
    """Return the LM head if it is a plain matrix (`plain_head`) and frozen, else None."""
    head = plain_head(model)
    return None if head is None or any(weight.requires_grad for weight in head.parameters()) else head


def plain_head(model: Any) -> torch.nn.Linear | None:
    """Return the LM head, trained or frozen, if it is a plain matrix and the model's last operation, else None.

    Return None also for a sharded model: its LM head is complete only during a forward pass.
    """
    if is_sharded(model):
        return None
    inner = bare(model)
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if type(head) is not torch.nn.Linear or type(head.weight.data) is not torch.Tensor or "forward" in vars(head):
        return None
    if head.weight.shape != (head.out_features, head.in_features):
        return None
    # The test below cannot see a soft cap while logits are small.
    if getattr(inner.config.get_text_config(), "final_logit_softcapping", None):
        return None
    if inner not in _HEADS:
        _HEADS[inner] = _head_is_last(inner, head)
    return head if _HEADS[inner] else None


def _accepts_layouts(inner: Any) -> bool:
    parameters = inspect.signature(inner.forward).parameters
    if not {"position_ids", "logits_to_keep"} <= set(parameters) or inner.config._attn_implementation != "sdpa":
        return inner.config._attn_implementation == ATTENTION
    capped = getattr(inner.config.get_text_config(), "attn_logit_softcapping", None)
    return not capped and inner._can_set_attn_implementation()


@torch.no_grad()
def _keeps_rows_apart(model: Any, inner: Any) -> bool:
    device = next(inner.parameters()).device
    before = inner.config._attn_implementation
    try:
        with evaluating(model):
            check = support_check(model)
            inner.set_attn_implementation(ATTENTION)
            apart = check.agrees(packed_output(model, pack(check.rows, device)))
    except (TypeError, ValueError, IndexError):
        apart = False
    if not apart:
        inner.set_attn_implementation(before)
        note("this model does not keep packed rows apart: they are padded, which is slower and changes no result")
    return apart


@torch.no_grad()
def _head_is_last(inner: Any, head: torch.nn.Linear) -> bool:
    device = next(inner.parameters()).device
    with evaluating(inner):
        rows = _test_rows(inner)
        logits = padded_logits(inner, rows, device)
        with bypassed(head):
            states = padded_logits(inner, rows, device)
        if states.shape[-1] != head.in_features:
            return False
        own = head(states.to(head.weight.dtype))
        # States and matrix are the same, so only the rounding of this product may differ.
        tolerance = 1e-3 if _is_full_precision(own) else 2e-2
        return bool((own - logits).abs().max() <= tolerance * (1 + logits.abs().max()))


def _is_full_precision(numbers: torch.Tensor) -> bool:
    return numbers.dtype in (torch.float32, torch.float64)
