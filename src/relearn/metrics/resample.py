"""Intervals of a number that rests on several sets of answers: each is drawn by itself, whole subjects at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.intervals import group, lower_tail

# One (resamples, rows) array of how often each row was drawn per set -> (resamples,)
Drawn = Callable[[list[np.ndarray]], np.ndarray]
_STEP = 250


def interval_of_sets(
    sets: Sequence[Sequence[AnswerRow]], statistic: Drawn, value: float, *, resamples: int, seed: int
) -> tuple[float, float]:
    """The 95 % interval of `statistic`, widened where needed to contain `value`, the number of the sets as they are.

    Draws depend on the order of the rows, so callers sort them by id. Resamples in which the statistic is nan are left
    out.
    """
    rng = np.random.default_rng(seed)
    grouped = [group([row.subject for row in rows], len(rows)) for rows in sets]
    found = []
    for done in range(0, resamples, _STEP):
        size = min(_STEP, resamples - done)
        found.append(statistic([_draws(rng, clusters.count, size)[:, clusters.codes] for clusters in grouped]))
    drawn = np.concatenate(found)
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return value, value
    tail = lower_tail(min(clusters.count for clusters in grouped))
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return min(float(low), value), max(float(high), value)


def _draws(rng: np.random.Generator, clusters: int, resamples: int) -> np.ndarray:
    """(resamples, clusters): how often each was drawn, as many draws as there are clusters."""
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float32)
