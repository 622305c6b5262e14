"""The circuits of several models over the same questions, as numbers for JSON: what each has, lost and gained."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from relearn.analysis.circuits import THRESHOLDS, Edge, circuit, flow
from relearn.analysis.hooks import Inside
from relearn.engine.forward import TokenRow

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
    return {"questions": questions, "mean": {str(threshold): _mean(own, start, threshold, layers)
                                             for threshold in THRESHOLDS}}  # fmt: skip


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
