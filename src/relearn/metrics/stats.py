"""Bootstrap intervals: how far a number would move had other items of the same kind been asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

_CHUNK = 2_000_000


def bootstrap(
    columns: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % percentile interval of `statistic` over items drawn with replacement.

    `columns`: (items, values per item). `statistic`: (resamples, items, values) -> (resamples,). The interval is
    widened, where needed, to contain the statistic of the items themselves (few resamples, skewed statistics).
    """
    items, width = columns.shape
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // max(1, items * width))
    drawn = [
        statistic(columns[rng.integers(0, items, size=(min(step, resamples - done), items))])
        for done in range(0, resamples, step)
    ]
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    own = float(statistic(columns[None])[0])
    return min(float(low), own), max(float(high), own)


def mean_interval(values: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of `values` with its interval: (mean, low, high)."""
    return _with_interval(values, lambda drawn: drawn[..., 0].mean(axis=1), resamples, seed)


def median_interval(values: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Median of `values` with its interval: (median, low, high)."""
    return _with_interval(values, lambda drawn: np.median(drawn[..., 0], axis=1), resamples, seed)


def _with_interval(
    values: Sequence[float], statistic: Callable[[np.ndarray], np.ndarray], resamples: int, seed: int
) -> tuple[float, float, float]:
    columns = np.asarray(values, dtype=np.float64)[:, None]
    low, high = bootstrap(columns, statistic, resamples=resamples, seed=seed)
    return float(statistic(columns[None])[0]), low, high
