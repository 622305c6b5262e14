"""Read and edit the layer states of any decoder that transformers loads, through plain forward hooks.

The final norm is found once. What follows it is the model's own code: output layer, scale of the logits (Cohere,
Granite), soft cap (Gemma 2). The last layer's states must give the model's own logits, else the model is rejected.
Shapes: T tokens, L decoder layers, H width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.utils.generic import ModelOutput

from relearn.core.errors import InputError
from relearn.engine.model_support import bare, evaluating

_TRIAL_IDS = (1, 2, 3)
# An edit of the output of a layer: (T, H) -> (T, H).
Edit = Callable[[torch.Tensor], torch.Tensor]


class HookedModel:
    """Read and edit the layer states of a decoder, without changes to the model itself.

    `layers`: the decoder's blocks in order. Raises InputError for a model whose parts cannot be identified.
    """

    def __init__(self, model: Any):
        self.model = model
        inner = bare(model)
        self.head = inner.get_output_embeddings()
        self._inner, self._decoder = inner, inner.get_decoder() if hasattr(inner, "get_decoder") else inner.base_model
        self._output: Any = None
        decoder = self._decoder
        blocks = [child for child in decoder.children() if isinstance(child, torch.nn.ModuleList) and len(child)]
        if self.head is None or not blocks:
            raise _unsupported(inner)
        self.layers: Any = max(blocks, key=len)
        self.norm: Callable[[torch.Tensor], torch.Tensor] = self._find_norm(decoder)
        states, logits = self.run(_TRIAL_IDS)
        if not _equal_up_to_rounding(self.read(states[-1]), logits, self.head.weight.dtype):
            raise _unsupported(inner)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def states(self, ids: Sequence[int]) -> torch.Tensor:
        """Compute the states (L + 1, T, H) of one text, float32: input of the first layer, output of every layer."""
        return self.run(ids)[0]

    @torch.no_grad()
    def run(self, ids: Sequence[int], edits: Mapping[int, Edit] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute states (L + 1, T, H) and logits (T, V) of one text, float32.

        `edits`: state index (0: input of the first layer, n: output of layer n) -> function that changes the state.
        """
        seen: dict[int, torch.Tensor] = {}
        with evaluating(self.model), self._hooked(seen, edits or {}):
            logits = self.model(torch.tensor([list(ids)], device=self.device), use_cache=False).logits[0]
        return torch.stack([seen[index][0].float() for index in range(len(self.layers) + 1)]), logits.float()

    @torch.no_grad()
    def read(self, states: torch.Tensor) -> torch.Tensor:
        """Decode states (..., H) of any layer as the model decodes the last one's: logits (..., V), float32."""
        return self.decode(states)

    def decode(self, states: torch.Tensor) -> torch.Tensor:
        """Decode states as `read` does, with gradients with respect to the states."""
        weight = self.head.weight
        dtype = weight.dtype if weight.is_floating_point() else states.dtype
        normed = self.norm(states.to(dtype))
        output = _with_states(self._output, normed.reshape(1, -1, normed.shape[-1]))
        self._decoder.forward = lambda *_args, **_kwargs: output
        try:
            logits = self._inner(torch.zeros(1, 1, dtype=torch.long, device=normed.device), use_cache=False).logits
        finally:
            del self._decoder.forward
        return logits.reshape(*normed.shape[:-1], -1).float()

    @contextmanager
    def _hooked(self, seen: dict[int, torch.Tensor], edits: Mapping[int, Edit]) -> Iterator[None]:
        """Collect every state in `seen`, after its edit if there is one."""

        def record(index: int, states: torch.Tensor) -> torch.Tensor:
            if index in edits:
                states = edits[index](states[0].float()).to(states.dtype)[None]
            seen[index] = states.detach()
            return states

        def before(_module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            if args:
                return (record(0, args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": record(0, kwargs["hidden_states"])}

        def after(index: int) -> Callable:
            def hook(_module: Any, _args: tuple, output: Any) -> Any:
                if isinstance(output, tuple):
                    return (record(index, output[0]), *output[1:])
                return record(index, output)

            return hook

        handles = [self.layers[0].register_forward_pre_hook(before, with_kwargs=True)]
        handles += [layer.register_forward_hook(after(index)) for index, layer in enumerate(self.layers, start=1)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _find_norm(self, decoder: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        """Find the child of the decoder whose input is the output of the last layer; identity if there is none.

        An output of the decoder is kept as the form of all further ones.
        """
        inputs: dict[str, torch.Tensor] = {}
        children = {name: child for name, child in decoder.named_children() if child is not self.layers}
        handles = [
            child.register_forward_pre_hook(
                lambda _module, args, name=name: inputs.update({name: args[0]}) if args else None
            )
            for name, child in children.items()
        ]
        handles.append(decoder.register_forward_hook(lambda _module, _args, output: setattr(self, "_output", output)))
        try:
            last = self.states(_TRIAL_IDS)[-1]
        finally:
            for handle in handles:
                handle.remove()
        same_shape = (name for name, value in inputs.items() if value.shape == last[None].shape)
        name = next((name for name in same_shape if torch.equal(inputs[name][0].float(), last)), None)
        return children[name] if name else lambda states: states


def _with_states(output: Any, states: torch.Tensor) -> Any:
    """Return the output of a decoder, which may be a tensor, a tuple or an object, with other last states."""
    if isinstance(output, torch.Tensor):
        return states
    if isinstance(output, ModelOutput):
        return type(output)(**{**output, "last_hidden_state": states})
    return (states, *output[1:])


def _equal_up_to_rounding(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> bool:
    """Compare logits; in half precision, rounding errors reach a few hundredths of the largest logit."""
    tolerance = 1e-3 if dtype in (torch.float32, torch.float64) else 5e-2
    return bool((one - other).abs().max() <= tolerance * (1 + other.abs().max()))


def _unsupported(inner: Any) -> InputError:
    return InputError(
        f"the layers of a {type(inner).__name__} cannot be read",
        way_out="a decoder with a final norm and an output layer",
    )
