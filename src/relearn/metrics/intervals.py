"""Compute 95 % intervals of a statistic over items or clusters of items.

Questions about one subject are not independent, so with `clusters` whole subjects are resampled, each with all its
items (Cameron, Gelbach and Miller 2008). Percentile intervals are too narrow for few clusters, so the percentiles of
Hesterberg's expanded interval (arXiv 1411.5279) are used: 1.1 and 98.9 % for 12 clusters, 2.4 and 97.6 % for 200.
`interval_of_sets` is for a statistic of several sets of answers; each set is resampled independently.

The bootstrap fails for a share near 0 or 1: 64 of 64 would be [1, 1]. For items that are 0 or 1, `share_interval` is
the Clopper-Pearson interval of the effective number of items, as Korn and Graubard (Survey Methodology 24, 1998) have
it: n items of subjects with correlation r count as n / (1 + (m - 1) r), where m is the mean size of a subject, weighted
by that size. Few subjects say little about r, and none at all if every item is 0 or every item is 1. Therefore r is a
weighted mean of its estimate and of 0.6; the weights are the variance p (1 - p) of every subject, and that of one
subject at p = 1/2. docs/metrics.md has the coverage in simulations.
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
# The correlation of a subject's items before any data, and its weight: the variance of one subject at a share of 1/2.
PRIOR_CORRELATION, PRIOR_WEIGHT = 0.6, 0.25
TAIL = 0.025


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


def share_interval(
    values: Sequence[float],
    *,
    clusters: ClusterLabels | None = None,
    resamples: int = 1000,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float, float]:
    """Compute the mean of `values` within `bounds` with its interval: (mean, low, high).

    If every value is one of the bounds, the mean is a share and the interval is that of `binomial_interval`. It is also
    taken if all values are equal, because the bootstrap would say that the mean is certain. Otherwise it is the
    bootstrap interval of `mean_interval`.
    """
    low, high = bounds
    if not (set(values) <= {low, high} or (len(set(values)) == 1 and low <= values[0] <= high)):
        return mean_interval(values, clusters=clusters, resamples=resamples, seed=seed)
    share, *ends = binomial_interval([(value - low) / (high - low) for value in values], clusters=clusters)
    return low + (high - low) * share, low + (high - low) * ends[0], low + (high - low) * ends[1]


def binomial_interval(values: Sequence[float], *, clusters: ClusterLabels | None = None) -> tuple[float, float, float]:
    """Compute the share of items that are 1 with its interval over subjects: (share, low, high).

    Values between 0 and 1 (shares of the repeats of an item) vary less than items that are 0 or 1, so the interval is
    then too wide rather than too narrow.
    """
    from scipy.special import betaincinv

    items = np.asarray(values, dtype=np.float64)
    share, count = float(items.mean()), effective_items(items, group(clusters, len(items)))
    ones, zeros = share * count, (1 - share) * count
    low = float(betaincinv(ones, zeros + 1, TAIL)) if share > 0 else 0.0
    high = float(betaincinv(ones + 1, zeros, 1 - TAIL)) if share < 1 else 1.0
    return share, min(low, share), max(high, share)


def effective_items(items: np.ndarray, grouped: Clusters) -> float:
    """Compute the number of independent items with as much information about their mean as these: (items,), 0 to 1.

    It is their number if every cluster has one item.
    """
    sizes = np.bincount(grouped.codes)
    pairs = float((sizes * (sizes - 1)).sum())
    if not pairs:
        return float(len(items))
    share = items.mean()
    variance = share * (1 - share)
    deviations = np.bincount(grouped.codes, weights=items - share)
    squares = np.bincount(grouped.codes, weights=np.square(items - share))
    # The sum over pairs of different items of a subject; the factor corrects for the estimated mean.
    covariance = float((deviations**2 * grouped.count / (grouped.count - 1) - squares).sum()) / pairs
    estimate = min(1.0, max(0.0, covariance / variance)) if variance > 0 else 0.0
    weight = grouped.count * variance
    correlation = (weight * estimate + PRIOR_WEIGHT * PRIOR_CORRELATION) / (weight + PRIOR_WEIGHT)
    mean_size = float(np.square(sizes).sum()) / len(items)
    return len(items) / (1 + (mean_size - 1) * correlation)


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
