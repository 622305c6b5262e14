"""Membership inference: can an attacker tell the forget set from a holdout set that was never trained on?

An attack gives every answer y a score, higher for what looks trained on:

    loss              mean log-probability of the tokens                       (Yeom et al., arXiv 1709.01604)
    zlib              the same over the length of the text compressed          (Carlini et al., arXiv 2012.07805)
    min_k             mean of the k % least likely tokens                      (Shi et al., arXiv 2310.16789)
    min_k_plus_plus   the same of (ln p - mean) / sd under the model's own     (Zhang et al., arXiv 2404.02936)
    reference         mean log-probability less that under the base model      (Carlini et al., arXiv 2012.07805)

`mia_*` is the AUC: how often a forget answer scores higher than a holdout answer, ties counted half. 1 is a model that
has forgotten nothing, 0.5 one that cannot be told from one that never saw the set; below 0.5 the forget set stands out
by being unlikely. As in OpenUnlearning min-k leaves out the tokens that close the turn, the others keep them.

    PrivLeak = 100 (A_unlearned - A_retrained) / A_retrained,   A = 1 - AUC of min-k        (MUSE, arXiv 2407.06460)

so that -100 is a model that has forgotten nothing, 0 one like the retain-only run, and more than 0 has gone too far.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.intervals import interval_of_sets
from relearn.metrics.joint_context import Parts
from relearn.metrics.memorization import mean_logprob
from relearn.metrics.metric import METRICS, JointMetric, Measurement

MUSE = "arXiv 2407.06460"
# As in the public codes: where a distribution has next to no variance, a score must not grow without bound.
LEAST_VARIANCE = 1e-6
UNBOUNDED = 1e30
REFERENCE_DIGITS = 4
NOT_MEASURED = "not measured, or an answer without tokens"
NO_REFERENCE = "no retain-only run to compare with (metrics.retain_reference)"
Attack = Callable[[AnswerRow, float], float | None]


def min_k(values: Sequence[float] | None, k: float) -> float | None:
    """The mean of the share `k` of smallest values, at least of one; None without values."""
    if not values:
        return None
    least = sorted(values)[: max(1, int(len(values) * k))]
    return mean_logprob(least)


def standardised(logprobs: Sequence[float], moments: Sequence[tuple[float, float]]) -> list[float]:
    """(ln p - mean) / sd of every token, of the (mean, variance) at its place."""
    pairs = zip(logprobs, moments, strict=True)
    return [(own - mean) / math.sqrt(max(variance, LEAST_VARIANCE)) for own, (mean, variance) in pairs]


def _loss(row: AnswerRow, _: float) -> float | None:
    return mean_logprob(row.reference_logprobs)


def _zlib(row: AnswerRow, _: float) -> float | None:
    mean = mean_logprob(row.reference_logprobs)
    return None if mean is None else mean / len(zlib.compress(row.reference.encode("utf-8", "surrogatepass")))


def _min_k(row: AnswerRow, k: float) -> float | None:
    return min_k(_unclosed(row, row.reference_logprobs or ()), k)


def _min_k_plus_plus(row: AnswerRow, k: float) -> float | None:
    if not row.reference_logprobs or not row.reference_moments:
        return None
    return min_k(_unclosed(row, standardised(row.reference_logprobs, row.reference_moments)), k)


def _reference(row: AnswerRow, _: float) -> float | None:
    own, base = mean_logprob(row.reference_logprobs), mean_logprob(row.base_logprobs)
    if own is None or base is None or own == base == -math.inf:
        return None
    # Two passes of one model differ by rounding; that much is a tie and not a sign of membership.
    return round(own - base, REFERENCE_DIGITS) if math.isfinite(own - base) else own - base


def _unclosed(row: AnswerRow, values: Sequence[float]) -> Sequence[float]:
    return values[: max(0, len(values) - row.closing_tokens)]


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Mann-Whitney: the share of pairs in which the member scores higher, ties counted half. Neither may be empty."""
    from scipy.stats import rankdata

    ranks = rankdata([*members, *others])[: len(members)]
    below = ranks.sum() - len(members) * (len(members) + 1) / 2
    return float(below / (len(members) * len(others)))


def privleak(auc_unlearned: float, auc_retrained: float) -> float | None:
    """In percent, of two AUCs as `auc` gives them; None where the retain-only run's is 1."""
    if auc_retrained >= 1:
        return None
    return 100 * ((1 - auc_unlearned) - (1 - auc_retrained)) / (1 - auc_retrained)


def _measure(parts: Parts, attack: Attack) -> Measurement | None:
    """None without a holdout set. Counts and `per_record` are of the forget answers; the note has the holdout's."""
    forget, holdout = (sorted(parts.rows(part), key=lambda row: row.id) for part in ("forget", "holdout"))
    if not forget or not holdout:
        return None
    k = parts.settings.min_k
    scores = {row.id: _finite(attack(row, k)) for row in forget}
    members = [(row, score) for row in forget if (score := scores[row.id]) is not None]
    others = [(row, score) for row in holdout if (score := _finite(attack(row, k))) is not None]
    if not members or not others:
        return Measurement(None, unscored=len(forget), per_record=dict.fromkeys(scores), why=NOT_MEASURED)
    value = auc([score for _, score in members], [score for _, score in others])
    low, high = _interval(parts, members, others, value)
    note = f"against {len(others)} answers of the holdout set"
    if len(others) < len(holdout):
        note += f", {len(holdout) - len(others)} more could not be scored"
    unscored = len(forget) - len(members)
    return Measurement(value, low, high, len(members), unscored, scores, note, NOT_MEASURED if unscored else "")


def _finite(score: float | None) -> float | None:
    """Impossible answers are the least likely of all; an AUC needs no more than their rank."""
    return None if score is None else max(-UNBOUNDED, min(UNBOUNDED, score))


def _interval(
    parts: Parts, members: list[tuple[AnswerRow, float]], others: list[tuple[AnswerRow, float]], value: float
) -> tuple[float, float]:
    one = np.array([score for _, score in members])[:, None]
    other = np.array([score for _, score in others])[None]
    wins = (one > other).astype(np.float32) + np.float32(0.5) * (one == other)

    def weighed(drawn: list[np.ndarray]) -> np.ndarray:
        first, second = drawn
        return ((first @ wins) * second).sum(1) / (first.sum(1) * second.sum(1))

    sets = [[row for row, _ in found] for found in (members, others)]
    return interval_of_sets(sets, weighed, value, resamples=parts.settings.bootstrap, seed=parts.seed)


def _privleak(parts: Parts) -> Measurement | None:
    """Of the min-k AUC and its interval; the retain-only run's AUC is taken as it is."""
    found = _measure(parts, _min_k)
    if found is None:
        return None
    retrained = parts.reference.aucs.get("mia_min_k") if parts.reference else None
    if found.value is None or found.low is None or found.high is None:
        return Measurement(None, unscored=found.unscored, why=found.why)
    if parts.reference is None or retrained is None or retrained >= 1:
        why = NO_REFERENCE if parts.reference is None else "the retain-only run has no AUC of min-k below 1"
        return Measurement(None, unscored=found.n + found.unscored, why=why)
    value, low, high = (privleak(bound, retrained) for bound in (found.value, found.high, found.low))
    note = f"the retain-only run {parts.reference.name} has an AUC of {retrained:.4g}"
    return Measurement(value, low, high, found.n, found.unscored, note=note, why=found.why)


def _add(name: str, title: str, source: str, attack: Attack) -> None:
    METRICS.add(
        name,
        JointMetric(
            name,
            f"Membership AUC, {title}",
            source,
            "forget",
            {"forget": "closer"},
            lambda parts: _measure(parts, attack),
            ideal=0.5,
            needs=("reference",),
        ),
    )


_add("mia_loss", "loss", "arXiv 1709.01604", _loss)
_add("mia_zlib", "loss over zlib", "arXiv 2012.07805", _zlib)
_add("mia_min_k", "min-k", "arXiv 2310.16789", _min_k)
_add("mia_min_k_plus_plus", "min-k++", "arXiv 2404.02936", _min_k_plus_plus)
_add("mia_reference", "against the base model", "arXiv 2012.07805", _reference)
METRICS.add(
    "privleak",
    JointMetric("privleak", "PrivLeak", MUSE, "forget", {"forget": "closer"}, _privleak, needs=("reference",)),
)
