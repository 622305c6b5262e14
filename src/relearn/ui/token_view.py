"""Compute the most likely tokens at each position of an answer, and the logit lens of a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relearn.analysis.hooks import HookedModel
from relearn.analysis.logit_lens import lens, top_tokens
from relearn.engine.forward import TokenRow
from relearn.models.load import Loaded


def candidates(loaded: Loaded, prompt: Sequence[int], response: Sequence[int]) -> list[dict[str, Any]]:
    """Compute probability, rank and the most likely tokens at the position of every token of an answer.

    `prompt`, `response`: token ids. `said` marks the token of the answer among the most likely ones. Raises InputError
    for a model whose layers cannot be read.
    """
    if not response:
        return []
    row = TokenRow("answer", (*prompt, *response), len(prompt))
    return [
        {
            "probability": position.probability,
            "rank": position.rank,
            "top": [
                {"text": _text(loaded, token), "probability": value, "said": token == position.token}
                for token, value in position.top
            ],
        }
        for position in top_tokens(HookedModel(loaded.model), row)
    ]


def layers(loaded: Loaded, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Compute the logit lens at the last token of `ids`: one entry per layer, the last layer first.

    Layer 0 is the embedding. `likeliest`: the most likely token. `probability`, `rank`: of the last token of `ids`.
    """
    reading = lens(HookedModel(loaded.model), TokenRow("token", tuple(ids), len(ids) - 1))
    rows = [
        {
            "layer": number,
            "likeliest": _text(loaded, int(reading.likeliest[number, 0])),
            "rank": int(reading.rank[number, 0]),
            "probability": float(reading.logprob[number, 0].exp()),
        }
        for number in range(len(reading.rank))
    ]
    return rows[::-1]


def _text(loaded: Loaded, token: int) -> str:
    return loaded.tokenizer.decode([token])
