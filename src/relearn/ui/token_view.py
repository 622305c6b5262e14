"""Compute the details of an answer's tokens: the likeliest tokens at each position, and the logit lens of a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relearn.analysis.hooks import HookedModel
from relearn.analysis.logit_lens import lens, top_tokens
from relearn.engine.forward import TokenRow
from relearn.models.load import Loaded


def candidates(loaded: Loaded, prompt: Sequence[int], response: Sequence[int]) -> list[dict[str, Any]]:
    """Make one entry per token of the answer: probability, rank and likeliest tokens at its position.

    Raises InputError for a model whose layers cannot be read.
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
    """Read every layer at the last token of `ids` with the logit lens, the last layer first; layer 0 is the embedding.

    `says`: the likeliest token; `probability`, `rank`: of the actual token.
    """
    reading = lens(HookedModel(loaded.model), TokenRow("token", tuple(ids), len(ids) - 1))
    rows = [
        {
            "layer": number,
            "says": _text(loaded, int(reading.likeliest[number, 0])),
            "rank": int(reading.rank[number, 0]),
            "probability": float(reading.logprob[number, 0].exp()),
        }
        for number in range(len(reading.rank))
    ]
    return rows[::-1]


def _text(loaded: Loaded, token: int) -> str:
    return loaded.tokenizer.decode([token])
