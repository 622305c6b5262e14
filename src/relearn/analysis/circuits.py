"""Knowledge circuits: which tokens, attention and MLP blocks an answer is built from (arXiv 2502.11190, section 5.2).

Information flow routes (Ferrando and Voita 2024, arXiv 2403.00824) with the contributions of ALTI (arXiv 2203.04212):
a node y is a sum of parts z; the proximity of a part is max(0, |y| - |y - z|) in the 1-norm, its contribution the
share of that in the sum over the node's parts. From the answer's positions down, edges that contribute enough are kept.

Shapes: T tokens, H width, L layers, A heads, D width of a head.

The circuits of several models over the same questions, as numbers for JSON: what each has, lost and gained.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import torch

from relearn.analysis.hooks import Inside
from relearn.core.errors import InputError
from relearn.engine.forward import TokenRow
from relearn.engine.model_support import bare

THRESHOLDS = (0.06, 0.08)
# Numbers held at once for the parts of some nodes.
_HELD = 1 << 24
_TOLERANCE = 1e-3
_NEEDED = ("self_attn.v_proj", "self_attn.o_proj", "input_layernorm", "post_attention_layernorm", "mlp")


@dataclass(frozen=True, order=True)
class Edge:
    """Into the token `target` at `layer` (from 0): `kind` residual (past attention), attention, keep (past the MLP) or
    mlp. Only an attention edge has another `source` than its target."""

    layer: int
    kind: str
    target: int
    source: int


@dataclass(frozen=True)
class Flow:
    """Contributions in every layer; those of a node add up to one.

    `attention` (L, T, T + 2): to a token after attention from each source token, from its own residual, and from the
    biases. `mlp` (L, T, 2): to a token after the MLP from what went in beside it, and from the MLP.
    """

    attention: torch.Tensor
    mlp: torch.Tensor


def contributions(node: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """(..., P) shares of parts (..., P, H) in nodes (..., H). Where no part is near its node all have the same."""
    size = node.abs().sum(-1, keepdim=True)
    proximity = (size - (node[..., None, :] - parts).abs().sum(-1)).clamp_min(0)
    total = proximity.sum(-1, keepdim=True)
    return torch.where(total > 0, proximity / total, torch.full_like(proximity, 1 / parts.shape[-2]))


@torch.no_grad()
def flow(inside: Inside, ids: Sequence[int]) -> Flow:
    """Contributions of one text. Raises InputError for a model that is not built like Llama."""
    layers = inside.layers
    if any(not _has(layer, name) for layer in layers for name in _NEEDED):
        raise _not_llama(inside)
    attention, mlp = [], []

    def finished(layer: Any, seen: dict[str, torch.Tensor]) -> None:
        after_attention, after_mlp = _layer(inside, layer, seen)
        attention.append(after_attention)
        mlp.append(after_mlp)

    with _eager(inside), _watched(layers, finished):
        inside.run(ids)
    return Flow(torch.stack(attention), torch.stack(mlp))


def circuit(found: Flow, positions: Sequence[int], threshold: float) -> dict[Edge, float]:
    """The edges with a contribution of `threshold` or more that lead down from the last layer at `positions`.

    The biases have no token to lead to and no edge.
    """
    edges: dict[Edge, float] = {}
    reached = set(positions)
    for layer in reversed(range(len(found.attention))):
        after_attention, after_mlp = found.attention[layer], found.mlp[layer]
        tokens = len(after_attention)
        here: dict[Edge, float] = {}
        for target in reached:
            for kind, share in zip(("keep", "mlp"), after_mlp[target].tolist(), strict=True):
                if share >= threshold:
                    here[Edge(layer, kind, target, target)] = share
        below = set()
        for target in {edge.target for edge in here}:
            shares = after_attention[target].tolist()
            if shares[tokens] >= threshold:
                here[Edge(layer, "residual", target, target)] = shares[tokens]
                below.add(target)
            for source in (at for at in range(target + 1) if shares[at] >= threshold):
                here[Edge(layer, "attention", target, source)] = shares[source]
                below.add(source)
        edges |= here
        reached = below
    return edges


def _layer(inside: Inside, layer: Any, seen: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, T + 2) and (T, 2)."""
    into, middle, out = seen["into"], seen["into"] + seen["attention"], seen["out"]
    _adds_up(inside, middle + seen["mlp"], out)
    moved, bias = _moved(inside, layer, seen)
    rows = []
    step = max(1, _HELD // moved.numel())
    scale = _scale(seen["attention"], seen["raw"])
    project = _linear(layer.self_attn.o_proj)
    for start in range(0, len(into), step):
        at = slice(start, start + step)
        weighted = torch.einsum("ats,sad->tsad", seen["weights"][:, at], moved).flatten(2)
        parts = torch.cat([project(weighted), bias.expand(len(weighted), 1, -1)], 1) * scale[at, None]
        _adds_up(inside, parts.sum(1), seen["attention"][at])
        parts = torch.cat([parts[:, :-1], into[at, None], parts[:, -1:]], 1)
        rows.append(contributions(middle[at], parts).cpu())
    return torch.cat(rows), contributions(out, torch.stack([middle, seen["mlp"]], 1)).cpu()


def _moved(inside: Inside, layer: Any, seen: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """What each head moves from each token, (T, A, D), and what the biases add whatever the tokens are, (H,)."""
    heads, width = len(seen["weights"]), layer.self_attn.head_dim
    value, out = layer.self_attn.v_proj, layer.self_attn.o_proj
    nothing = _apply(value, torch.zeros_like(seen["normed"][:1]))[0]
    values = (seen["values"] - nothing).unflatten(-1, (-1, width))
    nothing = nothing.unflatten(-1, (-1, width))
    if heads % values.shape[1]:
        raise _not_llama(inside)
    shared = heads // values.shape[1]
    return values.repeat_interleave(shared, 1), _apply(out, nothing.repeat_interleave(shared, 0).flatten()[None])[0]


def _apply(module: Any, values: torch.Tensor) -> torch.Tensor:
    """What the module makes of float32 values; one with quantised weights takes them as they are."""
    kind = next(module.parameters()).dtype
    return module(values.to(kind) if kind.is_floating_point else values).float()


def _linear(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A linear layer, and the adapter on it, without the bias."""
    return lambda values: _apply(module, values) - _apply(module, torch.zeros_like(values[:1, :1]))


def _scale(normed: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
    """What a norm behind the block (Gemma) multiplies each of its numbers with, held fixed; one where there is none."""
    return torch.where(raw == 0, torch.ones_like(raw), normed / raw.masked_fill(raw == 0, 1))


def _adds_up(inside: Inside, total: torch.Tensor, own: torch.Tensor) -> None:
    dtype = next(inside.model.parameters()).dtype
    tolerance = _TOLERANCE if dtype in (torch.float32, torch.float64) else 5e-2
    if not (total - own).abs().max() <= tolerance * (1 + own.abs().max()):
        raise _not_llama(inside)


def _has(layer: Any, name: str) -> bool:
    for part in name.split("."):
        layer = getattr(layer, part, None)
    return layer is not None


@contextmanager
def _eager(inside: Inside) -> Iterator[None]:
    """Attention by plain products, which alone hands its weights out."""
    inner = bare(inside.model)
    before = inner.config._attn_implementation
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


@contextmanager
def _watched(layers: Any, finished: Callable[[Any, dict[str, torch.Tensor]], None]) -> Iterator[None]:
    """Calls `finished` with what went through a layer, as soon as it has run; one layer is held at a time."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(_module: Any, _args: tuple, output: Any) -> None:
            seen[name] = (output[0] if isinstance(output, tuple) else output)[0].detach().float()

        return hook

    def before(_module: Any, args: tuple, kwargs: dict) -> None:
        seen["into"] = (args[0] if args else kwargs["hidden_states"])[0].detach().float()

    def attended(_module: Any, _args: tuple, output: Any) -> None:
        seen["raw"] = seen["attention"] = output[0][0].detach().float()
        seen["weights"] = output[1][0].detach().float()

    def after(layer: Any, _args: tuple, output: Any) -> None:
        keep("out")(layer, _args, output)
        held = dict(seen)
        seen.clear()
        finished(layer, held)

    handles = []
    for layer in layers:
        handles += [
            layer.register_forward_pre_hook(before, with_kwargs=True),
            layer.input_layernorm.register_forward_hook(keep("normed")),
            layer.self_attn.v_proj.register_forward_hook(keep("values")),
            layer.self_attn.register_forward_hook(attended),
            layer.mlp.register_forward_hook(keep("mlp")),
        ]
        # Gemma 2 and 3 put a norm behind each block as well, before its output is added.
        if hasattr(layer, "post_feedforward_layernorm"):
            handles.append(layer.post_attention_layernorm.register_forward_hook(keep("attention")))
            handles.append(layer.post_feedforward_layernorm.register_forward_hook(keep("mlp")))
        handles.append(layer.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _not_llama(inside: Inside) -> InputError:
    return InputError(
        f"circuits need a model built like Llama, Mistral, Qwen or Gemma, not {type(bare(inside.model)).__name__}"
    )


# By row id, then threshold: the edges with their contributions.
Circuits = dict[str, dict[float, dict[Edge, float]]]


def trace(inside: Inside, rows: Sequence[TokenRow]) -> Circuits:
    """The circuits of every row's answer. Raises InputError for a model that is not built like Llama."""
    found: Circuits = {}
    for row in rows:
        seen = flow(inside, row.ids)
        positions = range(row.answer_start - 1, len(row.ids) - 1)
        found[row.id] = {threshold: circuit(seen, positions, threshold) for threshold in THRESHOLDS}
    return found


def compared(own: Circuits, start: Circuits | None, layers: int) -> dict[str, Any]:
    """`questions`: by row id and threshold the nodes and edges and, against the start model, what was lost and gained.

    An edge is [layer, kind, target, source, contribution], a node [place, token], place 0 being the embeddings.
    `mean`: over the questions, by threshold: edges a layer, edges by kind, the numbers lost and gained, and the share
    of the start model's edges that are still there.
    """
    questions = {
        name: {
            str(threshold): _one(edges, None if start is None else start[name][threshold])
            for threshold, edges in by_threshold.items()
        }
        for name, by_threshold in own.items()
    }
    return {
        "questions": questions,
        "mean": {str(threshold): _mean(own, start, threshold, layers) for threshold in THRESHOLDS},
    }


def _one(edges: Mapping[Edge, float], start: Mapping[Edge, float] | None) -> dict[str, Any]:
    listed: dict[str, Any] = {
        "nodes": sorted({(edge.layer + 1, edge.target) for edge in edges} | {(e.layer, e.source) for e in edges}),
        "edges": [[*astuple(edge), round(share, 4)] for edge, share in sorted(edges.items())],
    }
    if start is not None:
        listed["lost"] = [list(astuple(edge)) for edge in sorted(start.keys() - edges.keys())]
        listed["gained"] = [list(astuple(edge)) for edge in sorted(edges.keys() - start.keys())]
    return listed


def _mean(own: Circuits, start: Circuits | None, threshold: float, layers: int) -> dict[str, Any]:
    every = {name: by_threshold[threshold] for name, by_threshold in own.items()}
    count = max(1, len(every))
    by_layer = Counter(edge.layer for edges in every.values() for edge in edges)
    kinds = Counter(edge.kind for edges in every.values() for edge in edges)
    mean: dict[str, Any] = {
        "per_layer": [round(by_layer[layer] / count, 3) for layer in range(layers)],
        "edges": round(sum(by_layer.values()) / count, 3),
        "kinds": {kind: round(kinds[kind] / count, 3) for kind in ("attention", "residual", "mlp", "keep")},
    }
    if start is not None and every:
        pairs = [(edges.keys(), start[name][threshold].keys()) for name, edges in every.items()]
        mean["lost"] = round(sum(len(old - new) for new, old in pairs) / count, 3)
        mean["gained"] = round(sum(len(new - old) for new, old in pairs) / count, 3)
        shares = [len(new & old) / len(old) for new, old in pairs if old]
        mean["kept_share"] = round(statistics.fmean(shares), 4) if shares else None
    return mean
