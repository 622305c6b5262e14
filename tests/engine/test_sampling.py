"""Drawing a token: by hand, and with the probabilities that transformers' own warpers give."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from relearn.core.config import Generate
from relearn.engine import sampling
from relearn.engine.sampling import ChooserProcessor, TokenSampler, pick

# Probabilities 1/2, 1/8, 1/4, 1/8.
PROBS = torch.tensor([[0.5, 0.125, 0.25, 0.125]])


def drawn(numbers, **settings) -> list[int]:
    scores = PROBS.log().expand(len(numbers), 4)
    return pick(scores, torch.tensor(numbers, dtype=torch.float64), Generate(temperature=1.0, **settings)).tolist()


def test_the_token_at_which_the_sum_passes_the_number():
    """Sums 0.5, 0.625, 0.875, 1."""
    assert drawn([0.0, 0.49, 0.51, 0.62, 0.63, 0.87, 0.88, 1.0]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_most_likely_alone():
    """Of two: 0 and 2, with 2/3 and 1/3."""
    assert drawn([0.0, 0.66, 0.67, 1.0], top_k=2) == [0, 0, 2, 2]


def test_as_few_as_hold_the_share():
    """0.5 and 0.25 are not yet 0.8, with one of the two of 0.125 they are; the first of equals stays: sums 4/7, 5/7."""
    assert drawn([0.57, 0.58, 0.71, 0.72, 1.0], top_p=0.8) == [0, 1, 1, 2, 2]
    assert drawn([0.0, 1.0], top_p=0.4) == [0, 0]


@pytest.mark.parametrize(
    "settings",
    [
        Generate(temperature=0.7),
        Generate(temperature=1.3, top_k=5),
        Generate(temperature=0.7, top_p=0.9),
        Generate(temperature=0.7, top_p=0.9, top_k=5),
        Generate(temperature=1.0, top_k=1000),
    ],
    ids=str,
)
def test_the_probabilities_are_those_of_transformers(settings):
    scores = torch.randn(1, 60, generator=torch.Generator().manual_seed(0)) * 2
    warpers = LogitsProcessorList([TemperatureLogitsWarper(settings.temperature)])
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    expected = warpers(torch.zeros(1, 1), scores.clone()).softmax(-1)[0]
    count = 5_000
    numbers = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    found = pick(scores.expand(count, -1), numbers, settings).bincount(minlength=60) / count
    assert torch.allclose(found, expected, atol=2 / count)


@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_a_large_vocabulary_is_sorted_only_as_far_as_needed(spread, monkeypatch):
    """Flat probabilities need more tokens than are looked at first, steep ones do not; the result is the same."""
    scores = torch.randn(3, 2000, generator=torch.Generator().manual_seed(1)) * spread
    numbers = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = pick(scores, numbers, Generate(temperature=1.0, top_p=0.9))
    falling, _ = sampling._most_likely(scores.double().softmax(-1), 0.9)
    assert falling.shape[-1] == (2000 if spread == 0 else 256)
    monkeypatch.setattr(sampling, "_SORTED_FIRST", 2000)
    assert torch.equal(found, pick(scores, numbers, Generate(temperature=1.0, top_p=0.9)))


def test_a_penalty_is_for_tokens_of_the_own_row():
    """Halved where positive, doubled where negative, for tokens 0 and 2 of the first row and 1 of the second."""
    scores = torch.tensor([[4.0, 3.0, -1.0], [4.0, 3.0, -1.0]])
    seen = []
    choice = TokenSampler(Generate(), ["a", "b"], penalty=2.0)
    penalise = choice._penalise
    choice._penalise = lambda tokens, given: seen.append(penalise(tokens, given)) or seen[-1]
    assert choice(scores, [0, 1], [[0, 2], [1]]).tolist() == [1, 0]
    assert seen[0].tolist() == [[2.0, 3.0, -2.0], [4.0, 1.5, -1.0]]


def test_numbers_belong_to_the_key_and_the_step():
    settings = Generate(temperature=1.0)
    scores = torch.zeros(3, 1000)
    one, other = TokenSampler(settings, ["a", "b", "a"]), TokenSampler(settings, ["b", "a"])
    first, second = one(scores, [0, 1, 2], [[], [], []]), one(scores, [0, 1, 2], [[], [], []])
    assert first[0] == first[2] and first[0] != first[1] and first[0] != second[0]
    assert other(scores[:1], [1], [[]]).tolist() == [first[0]]
    assert other(scores[:2], [0, 1], [[], []]).tolist() == [first[1], second[0]]


def test_inside_generate_the_chosen_token_is_all_that_is_left():
    asked = []

    def choose(scores, questions, tokens):
        asked.append((list(questions), tokens))
        return torch.tensor([2, 0])

    left = ChooserProcessor(choose, [7, 8], [1, 0])(torch.tensor([[0, 5, 6], [3, 4, 5]]), torch.zeros(2, 3))
    assert asked == [([7, 8], [[5, 6], [3, 4, 5]])]
    assert left.argmax(-1).tolist() == [2, 0] and torch.isfinite(left).sum() == 2
