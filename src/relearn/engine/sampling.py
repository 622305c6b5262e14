"""Choose the next token, greedily or by temperature, top-k and top-p sampling, with one random stream per question.

Random numbers are fixed by question and decode step. A sampled answer does not depend on the other questions of its
batch or on their order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import RepetitionPenaltyLogitsProcessor

from relearn.core.config import Generate

# Number of most likely tokens to sort first. They usually reach `top_p`, and sorting the whole vocabulary is slow.
_SORTED_FIRST = 256
# (logits (rows, V) float32, question number of each row, all tokens of each row) -> chosen tokens (rows,)
TokenChooser = Callable[[torch.Tensor, Sequence[int], Sequence[Sequence[int]]], torch.Tensor]


class TokenSampler:
    """Choose tokens by the recipe's `generate` settings, as a `TokenChooser`; temperature 0 is greedy.

    `keys`: random seed of each question. `penalty`: repetition penalty (Keskar et al. 2019, arXiv 1909.05858); it
    divides positive and multiplies negative logits of tokens that the row already contains, prompt included; 1 is off.
    """

    def __init__(self, settings: Generate, keys: Sequence[str], penalty: float = 1.0):
        self._settings = settings
        self._keys = keys
        self._streams: dict[int, random.Random] = {}
        self._penalise = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1 else None

    def __call__(self, logits: torch.Tensor, questions: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        if self._penalise is not None:
            longest = max(map(len, tokens))
            # Pad each row with its own last token: a repeated token is penalised only once.
            padded = [[*row, *[row[-1]] * (longest - len(row))] for row in tokens]
            ids: Any = torch.tensor(padded, device=logits.device)
            logits = self._penalise(ids, logits)
        if self._settings.temperature == 0:
            return logits.argmax(-1)
        drawn = [self._stream(question).random() for question in questions]
        # Apple GPUs (mps) do not support float64.
        dtype = torch.float32 if logits.device.type == "mps" else torch.float64
        return pick(logits, torch.tensor(drawn, dtype=dtype, device=logits.device), self._settings)

    def _stream(self, question: int) -> random.Random:
        if question not in self._streams:
            self._streams[question] = random.Random(self._keys[question])
        return self._streams[question]


def pick(logits: torch.Tensor, drawn: torch.Tensor, settings: Generate) -> torch.Tensor:
    """Sample tokens (rows,) by inverting the cumulative distribution, in vocabulary order, at `drawn` (rows,).

    Temperature is applied first, then `top_k`, then `top_p` to the remaining tokens. `drawn` contains uniform random
    numbers in [0, 1); the probs have its dtype.
    """
    logits = logits / settings.temperature
    tokens = None
    if 0 < settings.top_k < logits.shape[-1]:
        tokens = logits.topk(settings.top_k, dim=-1).indices.sort(-1).values
        logits = logits.gather(-1, tokens)
    probs = logits.softmax(-1, dtype=drawn.dtype)
    if settings.top_p < 1:
        descending, order = _most_likely(probs, settings.top_p)
        nucleus = descending.cumsum(-1) - descending < settings.top_p
        probs = torch.zeros_like(probs).scatter(-1, order, descending * nucleus)
    cumulative = probs.cumsum(-1)
    # Thresholds must be strictly below the total; at the total, searchsorted finds no token.
    thresholds = drawn.clamp(max=1 - 2**-20)[:, None] * cumulative[:, -1:]
    picked = torch.searchsorted(cumulative, thresholds, right=True).clamp(max=cumulative.shape[-1] - 1)
    return (picked if tokens is None else tokens.gather(-1, picked))[:, 0]


def _most_likely(probs: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort probs and their tokens, descending; return only the first 256 if they sum to `share` in every row."""
    if probs.shape[-1] > _SORTED_FIRST:
        descending, order = probs.topk(_SORTED_FIRST, dim=-1)
        if bool((descending.sum(-1) >= share).all()):
            return descending, order
    return probs.sort(dim=-1, descending=True, stable=True)


class ChooserProcessor:
    """Allow only the token chosen by `chooser`, as a logits processor for transformers' `generate`.

    `questions`: question number of each row. `padding`: number of left padding tokens of each row, which are removed.
    """

    def __init__(self, chooser: TokenChooser, questions: Sequence[int], padding: Sequence[int]):
        self._chooser = chooser
        self._questions = questions
        self._padding = padding

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        tokens = [row[padding:] for row, padding in zip(input_ids.tolist(), self._padding, strict=True)]
        chosen = self._chooser(scores.float(), self._questions, tokens)
        return torch.full_like(scores, float("-inf")).scatter(-1, chosen[:, None], 0)
