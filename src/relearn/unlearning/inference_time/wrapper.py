"""Define the base class of models that change the predictions of another model without changing its weights.

`forward.predict` passes rows to a wrapper unchanged, so log-probabilities, training and generation use the wrapper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from relearn.core.errors import InputError
from relearn.engine.forward import Predicted, TokenRow, predict


class ModelWrapper(torch.nn.Module):
    """Change the predictions of the start model `inner`; with `disable_adapter` they are bit-identical to `inner`'s."""

    takes_rows = True

    def __init__(self, inner: Any):
        super().__init__()
        self.inner = inner
        self.switched_off = False

    def forward(self, *, rows: Sequence[TokenRow], layer: int | None = None) -> Predicted:
        """Predict at the answer positions of `rows`; see `forward.predict`."""
        if self.switched_off:
            return predict(self.inner, rows, layer=layer)
        return self.changed(rows, layer)

    def changed(self, rows: Sequence[TokenRow], layer: int | None) -> Predicted:
        """Predict with the change, at the answer positions of `rows`."""
        raise NotImplementedError

    @torch.no_grad()
    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **settings: Any) -> torch.Tensor:
        """Generate answers like transformers: takes left-padded prompts (rows, tokens), returns prompts + answers."""
        if self.switched_off:
            return self.inner.generate(input_ids=input_ids, attention_mask=attention_mask, **settings)
        return self.generate_changed(input_ids, attention_mask, settings)

    def generate_changed(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, settings: dict[str, Any]
    ) -> torch.Tensor:
        """Generate with the change; arguments as for `generate`."""
        raise NotImplementedError

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Use `inner` alone inside the block; PEFT models have a method with the same name."""
        before, self.switched_off = self.switched_off, True
        try:
            yield
        finally:
            self.switched_off = before

    @property
    def config(self) -> Any:
        return self.inner.config

    def get_output_embeddings(self) -> None:
        """Return None, because no single layer computes the logits."""
        return None

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        raise InputError(
            "this method changes no weights, so there is no merged model to save",
            way_out="serve it through `relearn generate` or `relearn ask`",
        )
