"""The start model's predictions on retain rows: the same weights with the adapter off, computed once per row.

What is kept is the hidden state in front of the output layer, (answer tokens, width) a row, not the logits. The output
layer is never trained, so applying it again gives the same logits to the bit and costs next to nothing. Where the model
does more to its logits than its output layer (soft caps, scales) the shortcut is not exact and is not taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from relearn.models.forward import TokenRow, answer_logits

_CACHE_BYTES = 2 << 30


class Reference:
    """Reference logits of `rows` under the start model; all of them are run through it once, before the first step.

    Up front and in a fixed order, so that a resumed training, which starts with an empty memory, sees the same
    numbers to the bit. Under full fine-tuning there is no adapter to switch off, and up front is the only time.
    """

    def __init__(self, model: Any, rows: Sequence[TokenRow], *, batch: int = 4):
        self._model = model
        self._head = model.get_output_embeddings()
        self._frozen = not any(weight.requires_grad for weight in self._head.parameters())
        self._weight = None if self._frozen else self._head.weight.detach().clone()
        self._hidden: dict[str, torch.Tensor] = {}
        self._bytes = 0
        self._exact: bool | None = None
        for start in range(0, len(rows), batch):
            self._keep(rows[start : start + batch])

    @torch.no_grad()
    def logits(self, rows: Sequence[TokenRow]) -> torch.Tensor:
        """(answer tokens of the rows, vocab), float32, without gradient. A row's id names its tokens."""
        if all(row.id in self._hidden for row in rows):
            return self._apply_head(torch.cat([self._hidden[row.id] for row in rows]))
        return self._run(rows)[0]

    @property
    def exact(self) -> bool:
        """Whether the kept states reproduce the logits."""
        return bool(self._exact)

    def _run(self, rows: Sequence[TokenRow]) -> tuple[torch.Tensor, torch.Tensor]:
        captured: list[torch.Tensor] = []
        hook = self._head.register_forward_pre_hook(
            lambda _module, inputs: captured.append(inputs[0].detach().flatten(0, -2))
        )
        was_training = self._model.training
        self._model.eval()
        try:
            with adapter_off(self._model):
                logits = answer_logits(self._model, rows)
        finally:
            hook.remove()
            self._model.train(was_training)
        return logits, torch.cat(captured)

    @torch.no_grad()
    def _keep(self, rows: Sequence[TokenRow]) -> None:
        if self._exact is False or self._bytes > _CACHE_BYTES:
            return
        logits, hidden = self._run(rows)
        if self._exact is None:
            same_length = len(hidden) == len(logits)
            self._exact = same_length and torch.allclose(self._apply_head(hidden), logits, atol=1e-4)
        if not self._exact:
            return
        for row, states in zip(rows, hidden.split([row.answer_tokens for row in rows]), strict=True):
            self._hidden[row.id] = states.clone()
            self._bytes += states.numel() * states.element_size()

    def _apply_head(self, hidden: torch.Tensor) -> torch.Tensor:
        """The output layer as it was at the start; full fine-tuning trains it, so there a copy is kept."""
        if self._weight is None:
            return self._head(hidden).float()
        return torch.nn.functional.linear(hidden, self._weight, self._head.bias).float()


def adapter_off(model: Any) -> AbstractContextManager[None]:
    """With LoRA, the start model; a model without an adapter is left as it is."""
    return model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
