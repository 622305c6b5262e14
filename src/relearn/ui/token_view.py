"""An answer's tokens looked into: the likeliest tokens in the place of each, and what every layer would say there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relearn.analysis.hooks import HookedModel
from relearn.analysis.logit_lens import lens, top_tokens
from relearn.engine.forward import TokenRow
from relearn.models.load import Loaded


def candidates(loaded: Loaded, prompt: Sequence[int], response: Sequence[int]) -> list[dict[str, Any]]:
    """One entry per token of the answer. Raises InputError for a model whose layers cannot be read."""
    if not response:
        return []
    row = TokenRow("answer", (*prompt, *response), len(prompt))
    return [
        {
            "probability": place.probability,
            "rank": place.rank,
            "top": [
                {"text": _text(loaded, token), "probability": value, "said": token == place.token}
                for token, value in place.top
            ],
        }
        for place in top_tokens(HookedModel(loaded.model), row)
    ]


def layers(loaded: Loaded, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Of every layer at the last token of `ids`, the last layer first; layer 0 are the embeddings.

    `says`: the token the layer would say; `probability`, `rank`: of the token that stands there.
    """
    seen = lens(HookedModel(loaded.model), TokenRow("token", tuple(ids), len(ids) - 1))
    found = [
        {
            "layer": number,
            "says": _text(loaded, int(seen.likeliest[number, 0])),
            "rank": int(seen.rank[number, 0]),
            "probability": float(seen.logprob[number, 0].exp()),
        }
        for number in range(len(seen.rank))
    ]
    return found[::-1]


def _text(loaded: Loaded, token: int) -> str:
    return loaded.tokenizer.decode([token])
