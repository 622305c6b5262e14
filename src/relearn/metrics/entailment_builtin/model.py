"""Define the network of the built-in entailment judge: all-MiniLM-L6-v2 as a cross-encoder.

The lowest layers encode premise and hypothesis separately, with the weights of the sentence model. The upper layers,
which the adapter changes, attend to both; a learned vector is added to the tokens of each text. Each text may have 512
tokens, as in the sentence model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, INNER, HEADS, LAYERS = 384, 1536, 12, 6
SEPARATE = 2
POSITIONS = 512
EPSILON = 1e-12


class Layer(nn.Module):
    """Apply a transformer layer with normalisation after attention and MLP, as in BERT (arXiv 1810.04805)."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH, eps=EPSILON)

    def forward(self, hidden: Tensor, rows: PaddedRows) -> Tensor:
        """Compute hidden states (tokens of all rows, width) without padding, from states of the same shape."""
        q, k, v = rows.padded(self.qkv(hidden)).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        read = _attend(q, k, v, rows.mask).transpose(1, 2)
        hidden = self.norm1(hidden + self.out(rows.packed(read.flatten(2))))
        return self.norm2(hidden + self.down(F.gelu(self.up(hidden))))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    # The fused kernel is several times slower on a CPU for short texts.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
    return torch.softmax(scores, dim=-1) @ v


@dataclass(frozen=True)
class PaddedRows:
    """Convert between padded and packed rows of tokens: `count` rows of up to `longest` tokens, on one device.

    mask: (count, longest), True at tokens; places: (tokens of all rows,) their flat indices. Both are None if no row
    has padding.
    """

    count: int
    longest: int
    mask: Tensor | None = None
    places: Tensor | None = None

    @classmethod
    def of(cls, mask: Tensor) -> PaddedRows:
        # Computed once for all layers, because reading the mask synchronises a GPU.
        places = mask.flatten().nonzero()[:, 0]
        count, longest = mask.shape
        return cls(count, longest) if len(places) == mask.numel() else cls(count, longest, mask, places)

    def padded(self, hidden: Tensor) -> Tensor:
        """Pad (tokens of all rows, width) to (rows, longest, width) with zeros."""
        if self.places is None:
            return hidden.view(self.count, self.longest, -1)
        out = hidden.new_zeros(self.count * self.longest, hidden.shape[-1])
        return out.index_copy(0, self.places, hidden).view(self.count, self.longest, -1)

    def packed(self, padded: Tensor) -> Tensor:
        """Pack (rows, longest, ...) to (tokens of all rows, ...)."""
        flat = padded.flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)


class Encoder(nn.Module):
    """Encode each text separately with the embeddings and lowest layers, which have the published weights."""

    def __init__(self, words: int):
        super().__init__()
        self.words = nn.Embedding(words, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.layers = nn.ModuleList(Layer() for _ in range(SEPARATE))

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode ids (texts, tokens) as states (texts, tokens, width)."""
        rows = PaddedRows(len(ids), ids.shape[1]) if mask is None else PaddedRows.of(mask)
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        hidden = self.norm(self.words(rows.packed(ids)) + self.positions(rows.packed(places)))
        for layer in self.layers:
            hidden = layer(hidden, rows)
        return rows.padded(hidden)


class Decider(nn.Module):
    """Compute the logits of entailment, neutral and contradiction with the upper layers and the head."""

    def __init__(self, inner: int):
        super().__init__()
        self.sides = nn.Parameter(torch.zeros(2, WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS - SEPARATE))
        self.dense = nn.Linear(6 * WIDTH, inner)
        self.labels = nn.Linear(inner, 3)

    def forward(self, hidden: Tensor, premise: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the logits (pairs, 3).

        hidden: (pairs, tokens, width), first the tokens of the premise, then those of the hypothesis. premise: (pairs,
        tokens), True at tokens of the premise. mask: (pairs, tokens), False at padding; None without padding.
        """
        rows = PaddedRows(len(premise), premise.shape[1]) if mask is None else PaddedRows.of(mask)
        sides = torch.where(rows.packed(premise)[:, None], self.sides[0], self.sides[1])
        packed = rows.packed(hidden) + sides
        for layer in self.layers:
            packed = layer(packed, rows)
        hidden, hypothesis = rows.padded(packed), ~premise if rows.mask is None else ~premise & rows.mask
        p, h = _mean(hidden, premise), _mean(hidden, hypothesis)
        first = hypothesis.int().argmax(1)
        starts = (hidden[:, 0], hidden[torch.arange(len(hidden), device=hidden.device), first])
        features = torch.cat([*starts, p, h, (p - h).abs(), p * h], dim=-1)
        return self.labels(F.gelu(self.dense(features)))


def _mean(hidden: Tensor, where: Tensor) -> Tensor:
    weights = where.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(1) / weights.sum(1)


def read_base(weights: Mapping[str, Tensor], inner: int) -> tuple[Encoder, Decider]:
    """Build encoder and decider from the tensors of the sentence model, in float32; the head is not trained."""
    encoder = Encoder(len(weights["embeddings.word_embeddings.weight"]))
    decider = Decider(inner)
    # The sentence model uses only token type 0, so the vector of this type is added to every position.
    type_0 = weights["embeddings.token_type_embeddings.weight"][0]
    encoder.words.weight.data = weights["embeddings.word_embeddings.weight"].float()
    encoder.positions.weight.data = (weights["embeddings.position_embeddings.weight"] + type_0).float()
    _fill(encoder.norm, weights, "embeddings.LayerNorm")
    for number, layer in enumerate([*encoder.layers, *decider.layers]):
        assert isinstance(layer, Layer)
        at = f"encoder.layer.{number}."
        for kind in ("weight", "bias"):
            parts = [weights[f"{at}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            getattr(layer.qkv, kind).data = torch.cat(parts).float()
        _fill(layer.out, weights, f"{at}attention.output.dense")
        _fill(layer.norm1, weights, f"{at}attention.output.LayerNorm")
        _fill(layer.up, weights, f"{at}intermediate.dense")
        _fill(layer.down, weights, f"{at}output.dense")
        _fill(layer.norm2, weights, f"{at}output.LayerNorm")
    return encoder, decider


def _fill(module: nn.Linear | nn.LayerNorm, weights: Mapping[str, Tensor], name: str) -> None:
    module.weight.data = weights[f"{name}.weight"].float()
    module.bias.data = weights[f"{name}.bias"].float()


def add_adapter(decider: Decider, adapter: Mapping[str, Tensor]) -> None:
    """Merge a trained adapter into the upper layers.

    `NAME.a` and `NAME.b` add b @ a (LoRA, arXiv 2106.09685) to the matrix NAME.weight; every other tensor replaces the
    parameter of its name.
    """
    parameters = dict(decider.named_parameters())
    with torch.no_grad():
        for name, tensor in adapter.items():
            if name.endswith(".a"):
                stem = name.removesuffix(".a")
                parameters[f"{stem}.weight"].add_(adapter[f"{stem}.b"].float() @ tensor.float())
            elif not name.endswith(".b"):
                parameters[name].copy_(tensor.float())
