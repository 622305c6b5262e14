"""What is trained: low-rank additions to the matrices of the upper layers; their biases, norms and head in whole."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.func import functional_call

from relearn.metrics.entailment_builtin.model import Decider, Encoder, read_base
from relearn.models.builtin import builtin_path

BASE = "all-minilm-l6-v2"


def load_halves(inner: int) -> tuple[Encoder, Decider, Tokenizer]:
    folder = builtin_path(BASE)
    encoder, decider = read_base(load_file(folder / "model.safetensors"), inner)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return encoder.eval(), decider, tokenizer


class LoraDecider:
    """`weights`: the trained tensors by the names that `add_adapter` reads, float32; the forward pass is bfloat16."""

    def __init__(self, decider: Decider, rank: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self._decider = decider
        self._frozen: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        for name, parameter in decider.named_parameters():
            if not (name.startswith("layers.") and parameter.ndim == 2):
                fresh = parameter if name.startswith("layers.") else _drawn(parameter, generator)
                self.weights[name] = fresh.detach().clone()
                continue
            stem = name.removesuffix(".weight")
            outputs, inputs = parameter.shape
            self._frozen[stem] = parameter.detach().to(torch.bfloat16)
            self.weights[f"{stem}.a"] = (torch.rand(rank, inputs, generator=generator) * 2 - 1) * inputs**-0.5
            self.weights[f"{stem}.b"] = torch.zeros(outputs, rank)
        for tensor in self.weights.values():
            tensor.requires_grad_()

    def __call__(self, hidden: Tensor, premise: Tensor) -> Tensor:
        return functional_call(self._decider, self._merged, (hidden, premise)).float()

    def merge(self) -> None:
        """Once for every step, before its forward passes."""
        small = {name: tensor.to(torch.bfloat16) for name, tensor in self.weights.items()}
        self._merged = {name: tensor for name, tensor in small.items() if not name.endswith((".a", ".b"))}
        for stem, frozen in self._frozen.items():
            self._merged[f"{stem}.weight"] = torch.addmm(frozen, small[f"{stem}.b"], small[f"{stem}.a"])


def _drawn(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """The head: uniform for its matrices, small for the marks of the sides, zero for biases."""
    if parameter.ndim == 1:
        return torch.zeros_like(parameter)
    bound = 0.02 if parameter.shape[0] == 2 else parameter.shape[1] ** -0.5
    return (torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound
