"""The start model's view of rows: the same weights with the adapter off, computed once per row before the first step.

Where distributions are asked for, what is kept is the state in front of the output layer, (answer tokens, width) a row,
not the logits: applying the output layer again gives the same logits. Where only sequence probabilities are asked for
(NPO, DPO), one number per row is kept. Up front and in a fixed order, so that a resumed training, which starts with an
empty memory, sees the same numbers to the bit. A model whose output layer cannot be applied apart (soft caps, scales)
is run each time instead.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from relearn.core import distributed
from relearn.engine.forward import Predicted, TokenRow, answer_targets, predict
from relearn.engine.model_support import evaluating, plain_head
from relearn.unlearning.data.batches import Size
from relearn.unlearning.token_loss import Scored

_CACHE_BYTES = 2 << 30
_PACK_ROWS = 8


class Reference:
    """What the start model says about the rows it was given at the start.

    `rows`: distributions are wanted of these; `nll_rows`: their sequence NLL alone; `layer_rows`: states after the
    decoder layer `layer`.
    """

    def __init__(
        self,
        model: Any,
        rows: Iterable[TokenRow] = (),
        *,
        nll_rows: Iterable[TokenRow] = (),
        layer_rows: Iterable[TokenRow] = (),
        layer: int | None = None,
        autocast: bool = False,
    ):
        self._model = model
        self._layer = layer
        self._autocast = autocast
        self._states: dict[str, torch.Tensor] = {}
        self._nll: dict[str, torch.Tensor] = {}
        self._layers: dict[str, torch.Tensor] = {}
        self._bytes = 0
        # Full fine-tuning leaves no start model behind, and shards must be asked for by all processes at once.
        self._can_run_again = hasattr(model, "disable_adapter") and not distributed.shards_weights()
        self._trained_head, self._head = _heads(model)
        if self.exact:
            self._fill(rows, self._keep_states)
        self._fill(nll_rows, self._keep_nll)
        self._fill(layer_rows, self._keep_layer)

    @property
    def exact(self) -> bool:
        """Whether states can be kept in the place of logits."""
        return self._head is not None

    @torch.no_grad()
    def scored(self, rows: Sequence[TokenRow], step: Size) -> Scored:
        """The start model's predictions for `rows`, without gradient. A row's id names its tokens."""
        if all(row.id in self._states for row in rows):
            states = torch.cat([self._states[row.id] for row in rows])
            return scored(Predicted(None, states, self._head), rows, step)
        seen = self._run(rows)
        return scored(self._as_kept(seen), rows, step)

    def row_nll(self, rows: Sequence[TokenRow]) -> torch.Tensor:
        """Sum of the start model's token NLL of each row: (rows,) float32."""
        return torch.stack([self._nll[row.id] for row in rows])

    def layer_states(self, rows: Sequence[TokenRow]) -> torch.Tensor:
        """States after the layer, at the answer positions: (A, H)."""
        return torch.cat([self._layers[row.id] for row in rows])

    @torch.no_grad()
    def _run(self, rows: Sequence[TokenRow]) -> Predicted:
        device = next(self._model.parameters()).device
        with evaluating(self._model), adapter_off(self._model), mixed(device, self._autocast):
            return predict(self._model, rows, layer=self._layer, head=self._trained_head)

    def _as_kept(self, seen: Predicted) -> Predicted:
        """With the output layer as it was at the start; a model that brings its own head has no other."""
        return seen if self._head is None else replace(seen, head=self._head if seen.head else None)

    def _fill(self, rows: Iterable[TokenRow], keep: Any) -> None:
        ordered = sorted({row.id: row for row in rows}.values(), key=lambda row: row.id)
        for start in range(0, len(ordered), _PACK_ROWS):
            part = ordered[start : start + _PACK_ROWS]
            keep(part, self._run(part))

    def _keep_states(self, rows: Sequence[TokenRow], seen: Predicted) -> None:
        assert seen.states is not None
        if self._bytes > _CACHE_BYTES and self._can_run_again:
            return
        for row, states in zip(rows, seen.states.split([row.answer_tokens for row in rows]), strict=True):
            self._states[row.id] = states.clone()
            self._bytes += states.numel() * states.element_size()

    def _keep_nll(self, rows: Sequence[TokenRow], seen: Predicted) -> None:
        size = Size(sum(row.answer_tokens for row in rows), len(rows))
        sums = scored(self._as_kept(seen), rows, size).sequence_nll()
        self._nll.update({row.id: value for row, value in zip(rows, sums.detach(), strict=True)})

    def _keep_layer(self, rows: Sequence[TokenRow], seen: Predicted) -> None:
        assert seen.layer is not None
        for row, states in zip(rows, seen.layer.split([row.answer_tokens for row in rows]), strict=True):
            self._layers[row.id] = states.clone()


def scored(seen: Predicted, rows: Sequence[TokenRow], step: Size) -> Scored:
    """Predictions for `rows` as objectives see them."""
    found = seen.logits if seen.logits is not None else seen.states
    assert found is not None
    targets, owner = answer_targets(rows, found.device)
    return Scored(seen.logits, targets, owner, len(rows), step.tokens, step.rows, seen.states, seen.head)


def adapter_off(model: Any) -> AbstractContextManager[None]:
    """With LoRA, the start model; a model without an adapter is left as it is."""
    return model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()


def mixed(device: torch.device, wanted: bool) -> AbstractContextManager[Any]:
    """bfloat16 for the multiplications of a pass; the output layer and the losses stay outside, in full precision."""
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


@contextmanager
def mixed_losses(wanted: bool) -> Iterator[None]:
    """On a CPU the output layer takes bfloat16 numbers and sums them up in float32, so that logits are not rounded."""
    if not wanted:
        yield
        return
    matmul: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _heads(model: Any) -> tuple[torch.nn.Linear | None, torch.nn.Linear | None]:
    """The output layer where it is trained, and the output layer as it is now; None where it cannot stand apart."""
    head = plain_head(model)
    if head is None or not any(weight.requires_grad for weight in head.parameters()):
        return None, head
    return head, copy.deepcopy(head).requires_grad_(False)
