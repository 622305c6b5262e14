"""A decoder's layers, final norm and output layer, found in any model that transformers loads, by plain forward hooks.

Shapes: T tokens, L decoder layers, H width, V vocabulary. What is found is tried once: the final norm and the output
layer applied to the last layer's states must give the model's own logits, else the model is not read at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from relearn.core.errors import InputError
from relearn.engine.model_support import bare, evaluating

_TRIED = (1, 2, 3)
# An edit of what a layer gives out: (T, H) -> (T, H).
Edit = Callable[[torch.Tensor], torch.Tensor]


class Inside:
    """A model opened for reading. The model itself is not changed.

    `layers`: the decoder's blocks in order. Raises InputError for a model whose parts cannot be told apart.
    """

    def __init__(self, model: Any):
        self.model = model
        inner = bare(model)
        self.head = inner.get_output_embeddings()
        decoder = inner.get_decoder() if hasattr(inner, "get_decoder") else inner.base_model
        blocks = [child for child in decoder.children() if isinstance(child, torch.nn.ModuleList) and len(child)]
        if self.head is None or not blocks:
            raise _unreadable(inner)
        self.layers: Any = max(blocks, key=len)
        self.norm: Callable[[torch.Tensor], torch.Tensor] = self._find_norm(decoder)
        states, logits = self._tried()
        if not _alike(self.read(states[-1]), logits, self.head.weight.dtype):
            raise _unreadable(inner)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def states(self, ids: Sequence[int]) -> torch.Tensor:
        """(L + 1, T, H): what goes into the first layer, and what every layer gives out."""
        return self.run(ids)[0]

    @torch.no_grad()
    def run(self, ids: Sequence[int], edits: dict[int, Edit] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """States (L + 1, T, H) and logits (T, V), float32, of one text.

        `edits` maps a place among the states (0: into the first layer, n: out of layer n) to what is done to them.
        """
        seen: dict[int, torch.Tensor] = {}
        with evaluating(self.model), self._watched(seen, edits or {}):
            logits = self.model(torch.tensor([list(ids)], device=self.device), use_cache=False).logits[0]
        return torch.stack([seen[place][0].float() for place in range(len(self.layers) + 1)]), logits.float()

    @torch.no_grad()
    def read(self, states: torch.Tensor) -> torch.Tensor:
        """States (..., H) of any layer through the final norm and the output layer: logits (..., V), float32."""
        return self.decode(states)

    def decode(self, states: torch.Tensor) -> torch.Tensor:
        """The same with a gradient in the states."""
        weight = self.head.weight
        kind = weight.dtype if weight.is_floating_point() else states.dtype
        return self.head(self.norm(states.to(kind))).float()

    @contextmanager
    def _watched(self, seen: dict[int, torch.Tensor], edits: dict[int, Edit]) -> Iterator[None]:
        def edited(place: int, states: torch.Tensor) -> torch.Tensor:
            if place in edits:
                states = edits[place](states[0].float()).to(states.dtype)[None]
            seen[place] = states.detach()
            return states

        def before(_module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            if args:
                return (edited(0, args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": edited(0, kwargs["hidden_states"])}

        def after(place: int) -> Callable:
            def hook(_module: Any, _args: tuple, output: Any) -> Any:
                if isinstance(output, tuple):
                    return (edited(place, output[0]), *output[1:])
                return edited(place, output)

            return hook

        handles = [self.layers[0].register_forward_pre_hook(before, with_kwargs=True)]
        handles += [layer.register_forward_hook(after(place)) for place, layer in enumerate(self.layers, start=1)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _find_norm(self, decoder: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        """The decoder's child that is given what the last layer gives out; none leaves the states as they are."""
        given: dict[str, torch.Tensor] = {}
        children = {name: child for name, child in decoder.named_children() if child is not self.layers}
        handles = [
            child.register_forward_pre_hook(
                lambda _module, args, name=name: given.update({name: args[0]}) if args else None
            )
            for name, child in children.items()
        ]
        try:
            states, _ = self._tried()
        finally:
            for handle in handles:
                handle.remove()
        fits = (name for name, value in given.items() if value.shape == states[-1][None].shape)
        found = next((name for name in fits if torch.equal(given[name][0].float(), states[-1])), None)
        return children[found] if found else lambda states: states

    def _tried(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.run(_TRIED)


def _alike(one: torch.Tensor, other: torch.Tensor, kind: torch.dtype) -> bool:
    """Equal but for rounding, which in half precision reaches a few hundredths of the largest logit."""
    tolerance = 1e-3 if kind in (torch.float32, torch.float64) else 5e-2
    return bool((one - other).abs().max() <= tolerance * (1 + other.abs().max()))


def _unreadable(inner: Any) -> InputError:
    return InputError(
        f"the layers of a {type(inner).__name__} cannot be read",
        way_out="a decoder with a final norm and an output layer",
    )
