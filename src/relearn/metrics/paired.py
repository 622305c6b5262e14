"""Compare two runs on the same questions: the paired difference, its interval, and a sign test.

Questions that are hard for both runs do not affect the difference, so its interval is usually narrower than the two
separate intervals suggest. A question that is unscored in one of the runs is left out.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence, Sized
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any

import numpy as np

from relearn.core import config
from relearn.metrics.intervals import Statistic, bootstrap, group, mean, median, value_of
from relearn.metrics.metric import Better, Measurement, SplitScores, direction_of, summary

ValuesById = Mapping[str, float | None]
NOT_OF_ITEMS = "the number is no mean or median of its items, so this is the plain difference, without an interval"
# Relative rounding error of a sum of the same numbers in another order.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """Hold a paired difference, after minus before; `value` is None without a pair.

    low, high: bounds of the 95 % interval over subjects. n: pairs scored in both runs; unpaired: other questions.
    wins, losses, ties: pairs that are better, worse, equal. p: exact two-sided sign test. With fewer clusters than
    pairs the test counts clusters (`cluster_wins`, `cluster_losses`), because questions about one subject are not
    independent.
    """

    value: float | None
    _: KW_ONLY
    low: float | None = None
    high: float | None = None
    n: int = 0
    unpaired: int = 0
    wins: int = 0
    losses: int = 0
    ties: int = 0
    p: float | None = None
    clusters: int | None = None
    cluster_wins: int | None = None
    cluster_losses: int | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        optional = ("clusters", "cluster_wins", "cluster_losses", "note")
        return {key: value for key, value in asdict(self).items() if key not in optional or value not in (None, "")}


def paired(
    before: ValuesById,
    after: ValuesById,
    clusters: Mapping[str, Hashable | None] | None = None,
    *,
    better: Better = "higher",
    statistic: Statistic = mean,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Compute the difference of `statistic` between two runs from their values by question id (None = unscored).

    clusters: the subject of each id. better: the direction that counts as a win. The order of the ids has no effect.
    """
    ids = sorted(before.keys() | after.keys())
    pairs = {
        key: (new, old) for key in ids if (new := after.get(key)) is not None and (old := before.get(key)) is not None
    }
    note = _unpaired_note(ids, pairs, before, after)
    if not pairs:
        return Difference(None, unpaired=len(ids), note=note or "nothing was asked")
    columns = np.array(list(pairs.values()), dtype=np.float64)
    grouped = group([clusters.get(key) for key in pairs] if clusters else None, len(pairs))
    signs = _signs(columns, np.arange(len(pairs)), better)
    votes = signs if grouped.count == len(pairs) else _signs(columns, grouped.codes, better)
    wins, losses, up, down = (
        int((counted == sign).sum()) for counted, sign in ((signs, 1), (signs, -1), (votes, 1), (votes, -1))
    )

    def change(pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return statistic(pairs[:, :1], weights) - statistic(pairs[:, 1:], weights)

    low, high = bootstrap(columns, change, clusters=grouped.codes.tolist(), resamples=resamples, seed=seed)
    shared = {} if votes is signs else {"cluster_wins": up, "cluster_losses": down}
    return Difference(
        value_of(columns, change),
        low=low,
        high=high,
        n=len(pairs),
        unpaired=len(ids) - len(pairs),
        wins=wins,
        losses=losses,
        ties=len(pairs) - wins - losses,
        p=sign_test(up, down),
        clusters=grouped.count,
        **shared,
        note="; ".join(filter(None, (note, grouped.note))),
    )


def sign_test(wins: int, losses: int) -> float:
    """Compute the p-value of the exact two-sided sign test of wins and losses, without ties; 1 without both."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5))) if wins + losses else 1.0


def _signs(columns: np.ndarray, codes: np.ndarray, better: Better) -> np.ndarray:
    """Compute (clusters,): 1 if the sum of the changes is an improvement, -1 if a loss, 0 without change."""
    new, old = (np.bincount(codes, weights=column) for column in columns.T)
    sizes = np.bincount(codes, weights=np.abs(columns).sum(axis=1))
    signs = np.where(np.abs(new - old) <= _ROUNDING * sizes, 0, np.sign(new - old)).astype(int)
    return -signs if better == "lower" else signs


def _unpaired_note(ids: Sequence[str], pairs: Sized, before: ValuesById, after: ValuesById) -> str:
    """Describe the number of questions without a pair, with the reasons."""
    if len(ids) == len(pairs):
        return ""
    either = [key for key in ids if key in before and key in after]
    reasons = [
        (len(ids) - len(either), "asked in one run only"),
        (sum(before[key] is None for key in either), "unscored before"),
        (sum(after[key] is None for key in either), "unscored after"),
    ]
    listed = ", ".join(f"{count} {reason}" for count, reason in reasons if count)
    return f"{len(ids) - len(pairs)} of {len(ids)} left out: {listed}"


def statistic_of(*sides: Measurement) -> Statistic | None:
    """Find the statistic of its items that every measurement is: `mean`, `median`, or None."""
    for statistic in (mean, median):
        if all(_is_statistic_of_items(statistic, measured) for measured in sides):
            return statistic
    return None


def _is_statistic_of_items(statistic: Statistic, measured: Measurement) -> bool:
    scored = [value for value in measured.per_record.values() if value is not None]
    if measured.value is None or not scored:
        return False
    own = value_of(np.array(scored, dtype=np.float64)[:, None], statistic)
    return math.isclose(own, measured.value, rel_tol=1e-9, abs_tol=1e-12)


def difference(
    name: str,
    split: str,
    before: Measurement,
    after: Measurement,
    subjects: Mapping[str, str | None],
    settings: config.Metrics,
    seed: int = 0,
) -> Difference | None:
    """Compute the paired difference of one metric; None if neither run has a value."""
    if before.value is None and after.value is None:
        return None
    statistic = statistic_of(*(side for side in (before, after) if side.value is not None))
    if statistic is None:
        value = None if before.value is None or after.value is None else after.value - before.value
        return Difference(value, note=NOT_OF_ITEMS)
    direction = direction_of(name, split) or "higher"
    return paired(
        before.per_record,
        after.per_record,
        subjects,
        better=direction,
        statistic=statistic,
        resamples=settings.bootstrap,
        seed=seed,
    )


def differences(
    before: Mapping[str, SplitScores], after: Mapping[str, SplitScores], settings: config.Metrics, seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compute part -> metric -> difference, as in summary.json, for metrics measured in both runs."""
    return {
        part: {
            name: change.to_dict()
            for name, old in before[part].measurements.items()
            if name in new.measurements
            and (change := difference(name, new.split, old, new.measurements[name], new.subjects, settings, seed))
        }
        for part, new in after.items()
        if part in before
    }


def summarised(
    measured: Mapping[str, Mapping[str, SplitScores]], settings: config.Metrics, seed: int = 0
) -> dict[str, Any]:
    """Return the content of summary.json: side -> part -> metric; "difference" is after minus before."""
    content = {side: summary(parts) for side, parts in measured.items()}
    if {"before", "after"} <= measured.keys():
        content["difference"] = differences(measured["before"], measured["after"], settings, seed)
    return content
