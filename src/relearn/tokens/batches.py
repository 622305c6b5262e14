"""The order of training: which rows go into which micro-batch, decided before the first step.

The whole plan is a list, so a resumed run takes up exactly where it stopped, and every micro-batch knows how many
answer tokens its optimiser step has: a token mean over the step is then a token mean whatever the accumulation.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from relearn.models.forward import TokenRow

_GROUP_BATCHES = 8


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Forget and retain rows of one forward, with the answer tokens of the whole optimiser step they belong to."""

    forget: tuple[TokenRow, ...]
    retain: tuple[TokenRow, ...]
    step_forget_tokens: int
    step_retain_tokens: int


def plan_batches(
    forget: Sequence[TokenRow],
    retain: Sequence[TokenRow],
    *,
    batch_size: int,
    accumulation: int,
    epochs: float,
    seed: int,
) -> list[MicroBatch]:
    """Micro-batches for `epochs` passes over the forget rows; as many retain rows beside each.

    Retain rows come from an endless shuffled walk over the WHOLE retain set, so every method sees all of it. Batches
    hold rows of similar length; their order is random.
    """
    walk = _endless(retain, seed)
    batches = []
    for rows in _forget_batches(forget, batch_size, epochs, seed):
        beside = tuple(next(walk) for _ in rows) if retain else ()
        batches.append((rows, beside))
    planned = []
    for start in range(0, len(batches), accumulation):
        step = batches[start : start + accumulation]
        forget_tokens = sum(row.answer_tokens for rows, _ in step for row in rows)
        retain_tokens = sum(row.answer_tokens for _, rows in step for row in rows)
        planned += [MicroBatch(rows, beside, forget_tokens, retain_tokens) for rows, beside in step]
    return planned


def _forget_batches(
    rows: Sequence[TokenRow], batch_size: int, epochs: float, seed: int
) -> Iterator[tuple[TokenRow, ...]]:
    wanted = math.ceil(epochs * math.ceil(len(rows) / batch_size))
    made = 0
    for epoch in range(math.ceil(epochs)):
        for batch in _one_epoch(rows, batch_size, random.Random(f"{seed}/forget/{epoch}")):
            if made == wanted:
                return
            made += 1
            yield batch


def _one_epoch(rows: Sequence[TokenRow], batch_size: int, rng: random.Random) -> list[tuple[TokenRow, ...]]:
    shuffled = rng.sample(list(rows), len(rows))
    size = batch_size * _GROUP_BATCHES
    batches = []
    for start in range(0, len(shuffled), size):
        group = sorted(shuffled[start : start + size], key=lambda row: len(row.ids))
        batches += [tuple(group[at : at + batch_size]) for at in range(0, len(group), batch_size)]
    rng.shuffle(batches)
    return batches


def _endless(rows: Sequence[TokenRow], seed: int) -> Iterator[TokenRow]:
    round_number = 0
    while rows:
        yield from random.Random(f"{seed}/retain/{round_number}").sample(list(rows), len(rows))
        round_number += 1
