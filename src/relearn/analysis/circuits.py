"""Trace knowledge circuits: tokens, attention and MLP blocks that compute an answer (arXiv 2502.11190, section 5.2).

Uses information flow routes (Ferrando and Voita 2024, arXiv 2403.00824) with the contributions of ALTI (arXiv
2203.04212). A node y is a sum of parts z. The proximity of a part is max(0, |y| - |y - z|) in the 1-norm. Its
contribution is its proximity divided by the sum of proximities over the node's parts. The circuit consists of the edges
with a contribution of at least a threshold, traced down from the answer's positions in the last layer.

`information_flow` computes the contributions in one text, `trace_circuits` the circuits of answers. `compare_circuits`
compares the circuits of two models on the same questions.

Shapes: T tokens, H width, L layers, A heads, D width of a head.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import torch

from relearn.analysis.hooks import HookedModel
from relearn.core.errors import InputError
from relearn.engine.forward import TokenRow
from relearn.engine.model_support import bare

THRESHOLDS = (0.06, 0.08)
# Most values in memory at a time for the parts of nodes.
_MAX_NUMBERS = 1 << 24
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 5e-2
_REQUIRED = ("self_attn.v_proj", "self_attn.o_proj", "input_layernorm", "post_attention_layernorm", "mlp")


@dataclass(frozen=True, order=True)
class Edge:
    """Hold an edge from the token `source` to the token `target` at `layer` (from 0).

    `kind`: "attention"; "residual" (around attention); "mlp"; or "keep" (residual around the MLP). Only for attention
    can `source` differ from `target`.
    """

    layer: int
    kind: str
    target: int
    source: int


# The edges of one circuit with their contributions.
Circuit = dict[Edge, float]
# Row id -> threshold -> circuit.
Circuits = dict[str, dict[float, Circuit]]


@dataclass(frozen=True)
class InformationFlow:
    """Hold the contributions in every layer; those of one node sum to 1.

    `attention` (L, T, T + 2): to each token after attention, from every source token, its residual and the biases.
    `mlp` (L, T, 2): to each token after the MLP, from its residual and from the MLP.
    """

    attention: torch.Tensor
    mlp: torch.Tensor


def trace_circuits(hooked: HookedModel, rows: Sequence[TokenRow]) -> Circuits:
    """Trace the circuit of each row's answer at each threshold. Raises InputError for a model not built like Llama."""
    circuits: Circuits = {}
    for row in rows:
        flow = information_flow(hooked, row.ids)
        positions = range(row.answer_start - 1, len(row.ids) - 1)
        circuits[row.id] = {threshold: extract_circuit(flow, positions, threshold) for threshold in THRESHOLDS}
    return circuits


def extract_circuit(flow: InformationFlow, positions: Sequence[int], threshold: float) -> Circuit:
    """Select the edges with a contribution of at least `threshold`, traced down from the last layer at `positions`.

    The biases have no source token, so their contribution gives no edge.
    """
    circuit: Circuit = {}
    targets = set(positions)
    for layer in reversed(range(len(flow.attention))):
        edges: Circuit = {}
        for target in targets:
            for kind, share in zip(("keep", "mlp"), flow.mlp[layer][target].tolist(), strict=True):
                if share >= threshold:
                    edges[Edge(layer, kind, target, target)] = share
        for target in {edge.target for edge in edges}:
            edges |= _attention_edges(layer, target, flow.attention[layer][target].tolist(), threshold)
        circuit |= edges
        targets = {edge.source for edge in edges if edge.kind in ("residual", "attention")}
    return circuit


def _attention_edges(layer: int, target: int, shares: Sequence[float], threshold: float) -> Circuit:
    """Return the residual and attention edges to one token; `shares` (T + 2,): its contributions."""
    residual = shares[len(shares) - 2]
    edges = {Edge(layer, "residual", target, target): residual} if residual >= threshold else {}
    sources = (source for source in range(target + 1) if shares[source] >= threshold)
    return edges | {Edge(layer, "attention", target, source): shares[source] for source in sources}


@torch.no_grad()
def information_flow(hooked: HookedModel, ids: Sequence[int]) -> InformationFlow:
    """Compute the contributions in one text. Raises InputError for a model that is not built like Llama."""
    layers = hooked.layers
    if any(not _has_module(layer, name) for layer in layers for name in _REQUIRED):
        raise _not_like_llama(hooked)
    attention, mlp = [], []

    def on_layer(layer: Any, seen: dict[str, torch.Tensor]) -> None:
        after_attention, after_mlp = _layer_contributions(hooked, layer, seen)
        attention.append(after_attention)
        mlp.append(after_mlp)

    with _eager_attention(hooked), _recorded(layers, on_layer):
        hooked.run(ids)
    return InformationFlow(torch.stack(attention), torch.stack(mlp))


def contributions(node: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """Compute contributions (..., P) of parts (..., P, H) to nodes (..., H); equal if all proximities are 0."""
    size = node.abs().sum(-1, keepdim=True)
    proximity = (size - (node[..., None, :] - parts).abs().sum(-1)).clamp_min(0)
    total = proximity.sum(-1, keepdim=True)
    return torch.where(total > 0, proximity / total, torch.full_like(proximity, 1 / parts.shape[-2]))


def _layer_contributions(
    hooked: HookedModel, layer: Any, seen: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the contributions (T, T + 2) after attention and (T, 2) after the MLP of one layer, on the CPU."""
    before, middle, after = seen["before"], seen["before"] + seen["attention"], seen["after"]
    _check_sum(hooked, middle + seen["mlp"], after)
    values, bias = _head_values(hooked, layer, seen)
    norm_scale = _norm_scale(seen["attention"], seen["raw_attention"])
    project = _without_bias(layer.self_attn.o_proj)
    step = max(1, _MAX_NUMBERS // values.numel())
    rows = []
    for start in range(0, len(before), step):
        at = slice(start, start + step)
        weighted = torch.einsum("ats,sad->tsad", seen["weights"][:, at], values).flatten(2)
        parts = torch.cat([project(weighted), bias.expand(len(weighted), 1, -1)], 1) * norm_scale[at, None]
        _check_sum(hooked, parts.sum(1), seen["attention"][at])
        parts = torch.cat([parts[:, :-1], before[at, None], parts[:, -1:]], 1)
        rows.append(contributions(middle[at], parts).cpu())
    return torch.cat(rows), contributions(after, torch.stack([middle, seen["mlp"]], 1)).cpu()


def _head_values(hooked: HookedModel, layer: Any, seen: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values of every token and head (T, A, D) without biases, and the sum that the biases add (H,)."""
    heads, width = len(seen["weights"]), layer.self_attn.head_dim
    v_proj, o_proj = layer.self_attn.v_proj, layer.self_attn.o_proj
    bias = _apply(v_proj, torch.zeros_like(seen["normed"][:1]))[0]
    values = (seen["values"] - bias).unflatten(-1, (-1, width))
    bias = bias.unflatten(-1, (-1, width))
    if heads % values.shape[1]:
        raise _not_like_llama(hooked)
    groups = heads // values.shape[1]
    return values.repeat_interleave(groups, 1), _apply(o_proj, bias.repeat_interleave(groups, 0).flatten()[None])[0]


def _apply(module: Any, values: torch.Tensor) -> torch.Tensor:
    """Apply the module to float32 values, cast to its dtype unless its weights are quantised; return float32."""
    dtype = next(module.parameters()).dtype
    return module(values.to(dtype) if dtype.is_floating_point else values).float()


def _without_bias(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the linear map of a layer and its adapter, without the bias."""
    return lambda values: _apply(module, values) - _apply(module, torch.zeros_like(values[:1, :1]))


def _norm_scale(normed: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
    """Return the elementwise factor of a norm after the block (Gemma), taken as constant; 1 if there is no norm."""
    return torch.where(raw == 0, torch.ones_like(raw), normed / raw.masked_fill(raw == 0, 1))


def _check_sum(hooked: HookedModel, total: torch.Tensor, output: torch.Tensor) -> None:
    """Raise InputError if the parts do not sum to the model's own output."""
    dtype = next(hooked.model.parameters()).dtype
    tolerance = _TOLERANCE if dtype in (torch.float32, torch.float64) else _HALF_TOLERANCE
    if not (total - output).abs().max() <= tolerance * (1 + output.abs().max()):
        raise _not_like_llama(hooked)


def _has_module(layer: Any, name: str) -> bool:
    for part in name.split("."):
        layer = getattr(layer, part, None)
    return layer is not None


@contextmanager
def _eager_attention(hooked: HookedModel) -> Iterator[None]:
    """Switch to the attention implementation that returns its weights."""
    inner = bare(hooked.model)
    before = inner.config._attn_implementation
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


@contextmanager
def _recorded(layers: Any, on_layer: Callable[[Any, dict[str, torch.Tensor]], None]) -> Iterator[None]:
    """Record tensors of each layer and call `on_layer(layer, seen)` once it has run; one layer is in memory at a time.

    `seen`: before and after (input and output of the layer), normed, values, weights, attention, mlp, and raw_attention
    (output of attention before a norm that follows it).
    """
    seen: dict[str, torch.Tensor] = {}

    def record(name: str) -> Callable:
        def hook(_module: Any, _args: tuple, output: Any) -> None:
            seen[name] = (output[0] if isinstance(output, tuple) else output)[0].detach().float()

        return hook

    def before_layer(_module: Any, args: tuple, kwargs: dict) -> None:
        seen["before"] = (args[0] if args else kwargs["hidden_states"])[0].detach().float()

    def after_attention(_module: Any, _args: tuple, output: Any) -> None:
        seen["raw_attention"] = seen["attention"] = output[0][0].detach().float()
        seen["weights"] = output[1][0].detach().float()

    def after_layer(layer: Any, args: tuple, output: Any) -> None:
        record("after")(layer, args, output)
        of_layer = dict(seen)
        seen.clear()
        on_layer(layer, of_layer)

    handles = []
    for layer in layers:
        handles += [
            layer.register_forward_pre_hook(before_layer, with_kwargs=True),
            layer.input_layernorm.register_forward_hook(record("normed")),
            layer.self_attn.v_proj.register_forward_hook(record("values")),
            layer.self_attn.register_forward_hook(after_attention),
            layer.mlp.register_forward_hook(record("mlp")),
        ]
        # Gemma 2 and 3 also put a norm after each block, before its output is added.
        if hasattr(layer, "post_feedforward_layernorm"):
            handles.append(layer.post_attention_layernorm.register_forward_hook(record("attention")))
            handles.append(layer.post_feedforward_layernorm.register_forward_hook(record("mlp")))
        handles.append(layer.register_forward_hook(after_layer))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _not_like_llama(hooked: HookedModel) -> InputError:
    name = type(bare(hooked.model)).__name__
    return InputError(f"circuits need a model built like Llama, Mistral, Qwen or Gemma, not {name}")


def compare_circuits(own: Circuits, start: Circuits | None, layers: int) -> dict[str, Any]:
    """List and count the edges of a model's circuits, and the edges lost and gained against the start model.

    Returns a JSON object. `questions`: row id -> threshold -> nodes [layer, token], where layer 0 is the embeddings,
    and edges [layer, kind, target, source, contribution]. `mean`: threshold -> means over the questions: edges per
    layer and kind, edges lost and gained, and the share of the start model's edges that are kept.
    """
    questions = {
        name: {
            str(threshold): _list_edges(circuit, None if start is None else start[name][threshold])
            for threshold, circuit in by_threshold.items()
        }
        for name, by_threshold in own.items()
    }
    return {
        "questions": questions,
        "mean": {str(threshold): _mean_counts(own, start, threshold, layers) for threshold in THRESHOLDS},
    }


def _list_edges(circuit: Circuit, start: Circuit | None) -> dict[str, Any]:
    targets, sources = {(edge.layer + 1, edge.target) for edge in circuit}, {(e.layer, e.source) for e in circuit}
    listed: dict[str, Any] = {
        "nodes": sorted(targets | sources),
        "edges": [[*astuple(edge), round(share, 4)] for edge, share in sorted(circuit.items())],
    }
    if start is not None:
        listed["lost"] = [list(astuple(edge)) for edge in sorted(start.keys() - circuit.keys())]
        listed["gained"] = [list(astuple(edge)) for edge in sorted(circuit.keys() - start.keys())]
    return listed


def _mean_counts(own: Circuits, start: Circuits | None, threshold: float, layers: int) -> dict[str, Any]:
    circuits = {name: by_threshold[threshold] for name, by_threshold in own.items()}
    count = max(1, len(circuits))
    by_layer = Counter(edge.layer for circuit in circuits.values() for edge in circuit)
    by_kind = Counter(edge.kind for circuit in circuits.values() for edge in circuit)
    mean: dict[str, Any] = {
        "per_layer": [round(by_layer[layer] / count, 3) for layer in range(layers)],
        "edges": round(sum(by_layer.values()) / count, 3),
        "kinds": {kind: round(by_kind[kind] / count, 3) for kind in ("attention", "residual", "mlp", "keep")},
    }
    if start is not None and circuits:
        pairs = [(circuit.keys(), start[name][threshold].keys()) for name, circuit in circuits.items()]
        mean["lost"] = round(sum(len(before - after) for after, before in pairs) / count, 3)
        mean["gained"] = round(sum(len(after - before) for after, before in pairs) / count, 3)
        shares = [len(after & before) / len(before) for after, before in pairs if before]
        mean["kept_share"] = round(statistics.fmean(shares), 4) if shares else None
    return mean
