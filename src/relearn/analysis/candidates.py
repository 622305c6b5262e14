"""Knowledge distribution: the likeliest tokens where an answer is given (arXiv 2502.11190, section 5.2 and Figure 5).

Pushing the likeliest token down lifts the next, which may be the secret in another form, and then noise: the paper
calls it a probability seesaw. Here it is seen token by token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from relearn.analysis.hooks import Inside
from relearn.engine.forward import TokenRow

TOP = 5


@dataclass(frozen=True)
class Place:
    """One position of an answer: the true token, its probability and rank, and the likeliest tokens with theirs."""

    token: int
    probability: float
    rank: int
    top: tuple[tuple[int, float], ...]


@torch.no_grad()
def candidates(inside: Inside, row: TokenRow, top: int = TOP) -> list[Place]:
    """Every answer token of a text under the model, the true answer before it."""
    _, logits = inside.run(row.ids)
    probabilities = logits[row.answer_start - 1 : -1].softmax(-1)
    found = probabilities.topk(min(top, probabilities.shape[-1]), dim=-1)
    places = []
    for at, token in enumerate(row.ids[row.answer_start :]):
        own = probabilities[at, token]
        likeliest = zip(found.indices[at].tolist(), found.values[at].tolist(), strict=True)
        places.append(Place(token, float(own), int((probabilities[at] > own).sum()) + 1, tuple(likeliest)))
    return places
