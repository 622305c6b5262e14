"""Compute 95 % bootstrap intervals of a statistic over items or clusters of items.

Questions about one subject are not independent, so with `clusters` whole subjects are resampled, each with all its
items (Cameron, Gelbach and Miller 2008). Percentile intervals are too narrow for few clusters, so the percentiles of
Hesterberg's expanded interval (arXiv 1411.5279) are used: 1.1 and 98.9 % for 12 clusters, 2.4 and 97.6 % for 200.
`interval_of_sets` is for a statistic of several sets of answers; each set is resampled independently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from relearn.metrics.answer_row import AnswerRow

# (items, values per item) and (resamples, items) counts of how often each item was drawn -> (resamples,)
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
# One (resamples, rows) array of draw counts per set -> (resamples,)
ResampledStatistic = Callable[[list[np.ndarray]], np.ndarray]
ClusterLabels = Sequence[Hashable | None]
ONE_SUBJECT = "all items are of one subject: the interval is over items, as if they had nothing in common"
# Draw counts in memory at once: items times resamples in `bootstrap`, resamples in `interval_of_sets`.
_MAX_COUNTS = 2_000_000
_RESAMPLES_AT_ONCE = 250


@dataclass(frozen=True)
class Clusters:
    """Hold bootstrap clusters: `codes` (items,) are the cluster of each item, from 0 to count - 1.

    note: the reason if the clusters are not those of the labels.
    """

    codes: np.ndarray
    count: int
    note: str = ""


def group(labels: ClusterLabels | None, items: int) -> Clusters:
    """Make one cluster per label and per item without a label; one per item if all labels are the same."""
    if labels is None:
        return Clusters(np.arange(items), items)
    if len(labels) != items:
        raise ValueError(f"{len(labels)} cluster labels for {items} items")
    seen: dict[Hashable, int] = {}
    keys = (("item", at) if label is None else ("label", label) for at, label in enumerate(labels))
    codes = np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.intp)
    if len(seen) == 1 and items > 1:
        return Clusters(np.arange(items), items, ONE_SUBJECT)
    return Clusters(codes, len(seen))


def bootstrap(
    columns: np.ndarray,
    statistic: Statistic,
    *,
    clusters: ClusterLabels | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the bootstrap interval of `statistic` over clusters (without `clusters`: items).

    columns: (items, values per item). The interval is widened if needed (few resamples, skewed statistics) to contain
    the statistic of the original items. Draws depend on the order of the items, so callers sort them by id.
    """
    grouped = group(clusters, len(columns))
    rng = np.random.default_rng(seed)
    step = max(1, _MAX_COUNTS // max(1, len(columns)))
    sizes = [min(step, resamples - done) for done in range(0, resamples, step)]
    values = np.concatenate([statistic(columns, _item_counts(rng, grouped, size)) for size in sizes])
    return _expanded_interval(values, grouped.count, value_of(columns, statistic))


def _expanded_interval(values: np.ndarray, clusters: int, own: float) -> tuple[float, float]:
    tail = lower_tail(clusters)
    low, high = np.percentile(values, [tail, 100 - tail])
    return min(float(low), own), max(float(high), own)


def value_of(columns: np.ndarray, statistic: Statistic) -> float:
    """Compute the statistic of the original items, each counted once."""
    return float(statistic(columns, np.ones((1, len(columns))))[0])


def _item_counts(rng: np.random.Generator, grouped: Clusters, resamples: int) -> np.ndarray:
    """Draw the count of each item in each resample, (resamples, items); items of a cluster have equal counts."""
    drawn = rng.integers(0, grouped.count, size=(resamples, grouped.count))
    drawn += grouped.count * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * grouped.count).reshape(resamples, grouped.count)
    return counts.astype(np.float64)[:, grouped.codes]


def lower_tail(clusters: int) -> float:
    """Compute the lower percentile of the expanded interval: 2.5 for many clusters, less for few."""
    from scipy.special import ndtr, stdtrit

    if clusters < 2:
        return 2.5
    return 100 * float(ndtr(math.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, 0.025)))


def mean(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the mean of the first column, as a `Statistic`."""
    return weights @ columns[:, 0] / weights.sum(axis=1)


def median(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the median of the first column, as a `Statistic`; for an even count the mean of the two middle values."""
    return weighted_median(columns[:, 0], weights)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the median per resample: (items,) values, (resamples, items) integer draw counts -> (resamples,)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    reached = weights[:, order].cumsum(axis=1)
    total = reached[:, -1:]
    lower = ordered[(reached < (total + 1) // 2).sum(axis=1)]
    upper = ordered[(reached < total // 2 + 1).sum(axis=1)]
    return lower / 2 + upper / 2


def mean_interval(
    values: Sequence[float], *, clusters: ClusterLabels | None = None, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Compute the mean of `values` with its interval: (mean, low, high)."""
    return _with_interval(values, mean, clusters, resamples, seed)


def median_interval(
    values: Sequence[float], *, clusters: ClusterLabels | None = None, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Compute the median of `values` with its interval: (median, low, high)."""
    return _with_interval(values, median, clusters, resamples, seed)


def _with_interval(
    values: Sequence[float], statistic: Statistic, clusters: ClusterLabels | None, resamples: int, seed: int
) -> tuple[float, float, float]:
    columns = np.asarray(values, dtype=np.float64)[:, None]
    low, high = bootstrap(columns, statistic, clusters=clusters, resamples=resamples, seed=seed)
    return value_of(columns, statistic), low, high


def interval_of_sets(
    sets: Sequence[Sequence[AnswerRow]], statistic: ResampledStatistic, value: float, *, resamples: int, seed: int
) -> tuple[float, float]:
    """Compute the bootstrap interval of a statistic of several sets, each resampled independently.

    It is widened if needed to contain `value`, the statistic of the original sets. Draws depend on the order of the
    rows, so callers sort them by id. Resamples with a nan statistic are left out.
    """
    rng = np.random.default_rng(seed)
    grouped = [group([row.subject for row in rows], len(rows)) for rows in sets]
    values = []
    for done in range(0, resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, resamples - done)
        values.append(statistic([_multinomial_item_counts(rng, clusters, size) for clusters in grouped]))
    known = np.concatenate(values)
    known = known[~np.isnan(known)]
    if not len(known):
        return value, value
    return _expanded_interval(known, min(clusters.count for clusters in grouped), value)


def _multinomial_item_counts(rng: np.random.Generator, grouped: Clusters, resamples: int) -> np.ndarray:
    """Draw counts like `_item_counts` from another random stream, with which the published intervals were computed."""
    probabilities = np.full(grouped.count, 1 / grouped.count)
    return rng.multinomial(grouped.count, probabilities, size=resamples).astype(np.float32)[:, grouped.codes]


def harmonic_mean(values: Sequence[float]) -> float:
    """Compute the harmonic mean; 0 if a value is 0 or less."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)
