"""Compute the start model's predictions on the rows of a plan once, before the first step, and keep them.

The start model is the same model with its adapter off. If a loss needs probs over the vocabulary, the states before the
output layer are kept, (answer tokens, width) for each row; the output layer then gives the same logits. If a loss needs
only sequence probabilities (NPO, DPO), one number per row is kept. Rows are computed in a fixed order, so that a
resumed training gets bit-identical numbers. If the output layer cannot be applied separately (soft caps, scales), the
start model is run in every step instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from relearn.core import distributed
from relearn.engine.forward import Predicted, TokenRow, answer_targets, predict
from relearn.engine.model_support import evaluating, plain_head
from relearn.unlearning.data.batches import Size
from relearn.unlearning.token_loss import AnswerLogits

_CACHE_BYTES = 2 << 30
_PACK_ROWS = 8


class Reference:
    """Keep the start model's predictions on given rows.

    `rows`: keep the states before the output layer. `nll_rows`: keep only the summed NLL. `layer_rows`: keep the states
    after the decoder layer `layer`.
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
        # Full fine-tuning changes the start model's weights, and a sharded model must be run by all processes together.
        self._can_run_again = hasattr(model, "disable_adapter") and not distributed.shards_weights()
        self._trained_head, self._head = _heads(model)
        if self.exact:
            self._fill(rows, self._keep_states)
        self._fill(nll_rows, self._keep_nll)
        self._fill(layer_rows, self._keep_layer)

    @property
    def exact(self) -> bool:
        """Return True if the states before the output layer can be kept instead of logits."""
        return self._head is not None

    @torch.no_grad()
    def answer_logits(self, rows: Sequence[TokenRow], step: Size) -> AnswerLogits:
        """Return the start model's predictions for `rows`, found by row id, without gradient."""
        if all(row.id in self._states for row in rows):
            states = torch.cat([self._states[row.id] for row in rows])
            return to_answer_logits(Predicted(None, states, self._head), rows, step)
        return to_answer_logits(self._with_start_head(self._run(rows)), rows, step)

    def row_nll(self, rows: Sequence[TokenRow]) -> torch.Tensor:
        """Return the start model's NLL of each row, summed over its answer tokens: (rows,) float32."""
        return torch.stack([self._nll[row.id] for row in rows])

    def layer_states(self, rows: Sequence[TokenRow]) -> torch.Tensor:
        """Return the start model's states after `layer` at the positions that predict answer tokens: (A, H)."""
        return torch.cat([self._layers[row.id] for row in rows])

    @torch.no_grad()
    def _run(self, rows: Sequence[TokenRow]) -> Predicted:
        device = next(self._model.parameters()).device
        with evaluating(self._model), adapter_off(self._model), mixed(device, self._autocast):
            return predict(self._model, rows, layer=self._layer, head=self._trained_head)

    def _with_start_head(self, predicted: Predicted) -> Predicted:
        """Replace the head with the start model's output layer, if the model has a separate output layer."""
        return predicted if self._head is None else replace(predicted, head=self._head if predicted.head else None)

    def _fill(self, rows: Iterable[TokenRow], keep: Callable[[Sequence[TokenRow], Predicted], None]) -> None:
        ordered = sorted({row.id: row for row in rows}.values(), key=lambda row: row.id)
        for start in range(0, len(ordered), _PACK_ROWS):
            pack = ordered[start : start + _PACK_ROWS]
            keep(pack, self._run(pack))

    def _keep_states(self, rows: Sequence[TokenRow], predicted: Predicted) -> None:
        assert predicted.states is not None
        if self._bytes > _CACHE_BYTES and self._can_run_again:
            return
        for row, states in zip(rows, predicted.states.split([row.answer_tokens for row in rows]), strict=True):
            self._states[row.id] = states.clone()
            self._bytes += states.numel() * states.element_size()

    def _keep_nll(self, rows: Sequence[TokenRow], predicted: Predicted) -> None:
        size = Size(sum(row.answer_tokens for row in rows), len(rows))
        sums = to_answer_logits(self._with_start_head(predicted), rows, size).sequence_nll()
        self._nll.update({row.id: value for row, value in zip(rows, sums.detach(), strict=True)})

    def _keep_layer(self, rows: Sequence[TokenRow], predicted: Predicted) -> None:
        assert predicted.layer is not None
        for row, states in zip(rows, predicted.layer.split([row.answer_tokens for row in rows]), strict=True):
            self._layers[row.id] = states.clone()


def to_answer_logits(predicted: Predicted, rows: Sequence[TokenRow], step: Size) -> AnswerLogits:
    """Make `AnswerLogits`, the input of losses, from a forward pass over `rows`.

    `step` is the size of the stream in the whole optimiser step.
    """
    source = predicted.logits if predicted.logits is not None else predicted.states
    assert source is not None
    targets, row = answer_targets(rows, source.device)
    sizes = len(rows), step.tokens, step.rows
    return AnswerLogits(predicted.logits, targets, row, *sizes, states=predicted.states, head=predicted.head)


def adapter_off(model: Any) -> AbstractContextManager[None]:
    """Switch the LoRA adapter off inside the block, which gives the start model; do nothing without an adapter."""
    return model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()


def mixed(device: torch.device, enabled: bool) -> AbstractContextManager[Any]:
    """Run a forward pass with bfloat16 autocast if `enabled`; the output layer and losses use full precision."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()


@contextmanager
def mixed_losses(enabled: bool) -> Iterator[None]:
    """Multiply float32 matrices on a CPU in bfloat16 with float32 sums inside the block, if `enabled`.

    The output layer is then faster, and its logits are not rounded to bfloat16.
    """
    if not enabled:
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
    """Return the output layer if it is trained, else None; and the start model's output layer, if it is separate.

    The second is a copy if the output layer is trained.
    """
    head = plain_head(model)
    if head is None or not any(weight.requires_grad for weight in head.parameters()):
        return None, head
    return head, copy.deepcopy(head).requires_grad_(False)
