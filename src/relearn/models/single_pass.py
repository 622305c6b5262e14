"""One pass of a model over rows, packed or padded, up to its logits or to the states in front of its output layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from relearn.engine.packing import Packed, TokenRow


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
        input_ids=packed.ids, position_ids=packed.positions, attention_mask=unused, use_cache=False,
        logits_to_keep=packed.keep, row_layout=packed.layout,
    )  # fmt: skip
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
