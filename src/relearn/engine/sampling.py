"""Which token comes next: the likeliest, or one drawn with numbers that belong to the question and the step alone.

So a drawn answer is the same whatever the other questions of the batch are, in whatever order they are asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import RepetitionPenaltyLogitsProcessor

from relearn.core.config import Generate

# Sorting these is quick, sorting a vocabulary is not.
_OFTEN_ENOUGH = 256
Chooser = Callable[[torch.Tensor, Sequence[int], Sequence[Sequence[int]]], torch.Tensor]


class Choice:
    """Called with scores (rows, V) float32, the question each row answers and all its tokens so far, prompt included.

    Gives the tokens (rows,). `keys`: one per question, what its random numbers are made of; temperature 0 draws
    nothing. `penalty`: of tokens that were already there (Keskar et al. 2019, arXiv 1909.05858), 1 is none.
    """

    def __init__(self, settings: Generate, keys: Sequence[str], penalty: float = 1.0):
        self._settings = settings
        self._keys = keys
        self._streams: dict[int, random.Random] = {}
        self._penalise = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1 else None

    def __call__(self, scores: torch.Tensor, questions: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        if self._penalise is not None:
            longest = max(map(len, tokens))
            # A row is filled up with its own last token, which a second time is penalised no further.
            seen = [[*row, *[row[-1]] * (longest - len(row))] for row in tokens]
            ids: Any = torch.tensor(seen, device=scores.device)
            scores = self._penalise(ids, scores)
        if self._settings.temperature == 0:
            return scores.argmax(-1)
        drawn = [self._stream(question).random() for question in questions]
        return pick(scores, torch.tensor(drawn, dtype=_fine(scores.device), device=scores.device), self._settings)

    def _stream(self, question: int) -> random.Random:
        if question not in self._streams:
            self._streams[question] = random.Random(self._keys[question])
        return self._streams[question]


def pick(scores: torch.Tensor, drawn: torch.Tensor, settings: Generate) -> torch.Tensor:
    """The token (rows,) at which the probabilities, added up in the order of the vocabulary, pass `drawn` (rows,).

    First temperature, then the `top_k` likeliest, then as few of those as hold `top_p` of what is left. `drawn` is
    uniform in [0, 1), in the number format that is to be reckoned in.
    """
    scores = scores / settings.temperature
    tokens = None
    if 0 < settings.top_k < scores.shape[-1]:
        tokens = scores.topk(settings.top_k, dim=-1).indices.sort(-1).values
        scores = scores.gather(-1, tokens)
    chances = scores.softmax(-1, dtype=drawn.dtype)
    if settings.top_p < 1:
        falling, order = _likeliest(chances, settings.top_p)
        inside = falling.cumsum(-1) - falling < settings.top_p
        chances = torch.zeros_like(chances).scatter(-1, order, falling * inside)
    reached = chances.cumsum(-1)
    # Never the whole sum, behind which there is no token.
    wanted = drawn.clamp(max=1 - 2**-20)[:, None] * reached[:, -1:]
    place = torch.searchsorted(reached, wanted, right=True).clamp(max=reached.shape[-1] - 1)
    return (place if tokens is None else tokens.gather(-1, place))[:, 0]


def _likeliest(chances: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Falling chances and their tokens, so many that they hold `share` in every row: seldom all of a vocabulary."""
    if chances.shape[-1] > _OFTEN_ENOUGH:
        falling, order = chances.topk(_OFTEN_ENOUGH, dim=-1)
        if bool((falling.sum(-1) >= share).all()):
            return falling, order
    return chances.sort(dim=-1, descending=True, stable=True)


def _fine(device: torch.device) -> torch.dtype:
    """Apple's GPUs know no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class ChoiceProcessor:
    """`choice` as `generate` of transformers takes it: the chosen token is all that is left to choose.

    `questions`: which one each row of the batch answers. The prompt counts among the tokens, padding does not:
    `padding` is how much stands in front of each row.
    """

    def __init__(self, choice: Chooser, questions: Sequence[int], padding: Sequence[int]):
        self._choice = choice
        self._questions = questions
        self._padding = padding

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        tokens = [row[padding:] for row, padding in zip(input_ids.tolist(), self._padding, strict=True)]
        chosen = self._choice(scores.float(), self._questions, tokens)
        return torch.full_like(scores, float("-inf")).scatter(-1, chosen[:, None], 0)
