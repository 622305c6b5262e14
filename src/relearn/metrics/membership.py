"""Measure membership inference: AUC of likelihood attacks between the forget set and an untrained holdout set.

An attack gives every reference answer a score, which is higher for answers that were probably trained on:

    loss              mean log-probability of the tokens                       (Yeom et al., arXiv 1709.01604)
    zlib              loss divided by the length of the compressed text        (Carlini et al., arXiv 2012.07805)
    min_k             mean of the k % least likely tokens                      (Shi et al., arXiv 2310.16789)
    min_k_plus_plus   the same of (ln p - mean) / sd under the model's own     (Zhang et al., arXiv 2404.02936)
    reference         loss minus loss under the base model                     (Carlini et al., arXiv 2012.07805)

`mia_*` is the AUC: the share of pairs in which the forget answer scores higher than the holdout answer, ties counted
half. 1: nothing was forgotten; 0.5: like a model not trained on the set; below: the forget set is unusually unlikely.
As in OpenUnlearning, min-k and min-k++ leave out the end-of-turn tokens; the other attacks include them.

    PrivLeak = 100 (A_unlearned - A_retrained) / A_retrained,   A = 1 - AUC of min-k        (MUSE, arXiv 2407.06460)

-100: nothing was forgotten; 0: like the retain-only run; above 0: unlearning went too far.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import JointContext
from relearn.metrics.intervals import interval_of_sets
from relearn.metrics.memorization import MUSE, mean_logprob
from relearn.metrics.metric import LAST, Measurement, metric

# As in public code: bounds the scores if a distribution has almost no variance.
LEAST_VARIANCE = 1e-6
UNBOUNDED = 1e30
REFERENCE_DIGITS = 4
NOT_MEASURED = "not measured, or an answer without tokens"
NO_REFERENCE = "no retain-only run to compare with (metrics.retain_reference)"
# (row, k) -> score, None where it cannot be computed.
MembershipScore = Callable[[AnswerRow, float], float | None]


def min_k(values: Sequence[float] | None, k: float) -> float | None:
    """Compute the mean of the smallest values, a share `k` of all and at least one; None without values."""
    return mean_logprob(sorted(values)[: max(1, int(len(values) * k))]) if values else None


def standardised(logprobs: Sequence[float], moments: Sequence[tuple[float, float]]) -> list[float]:
    """Compute (ln p - mean) / sd of every token, with the (mean, variance) at its position."""
    pairs = zip(logprobs, moments, strict=True)
    return [(own - mean) / math.sqrt(max(variance, LEAST_VARIANCE)) for own, (mean, variance) in pairs]


def _mia(
    name: str, label: str, source: str, description: str, order: int = LAST
) -> Callable[[MembershipScore], MembershipScore]:
    """Register the AUC of the decorated membership score as a metric."""

    def register(score: MembershipScore) -> MembershipScore:
        metric(
            name,
            label=label,
            description=description,
            source=source,
            better={"forget": "closer"},
            needs=["reference"],
            order=order,
            part="forget",
        )(lambda parts: membership_auc(parts, score))
        return score

    return register


@_mia("mia_loss", "MIA loss", "arXiv 1709.01604", "Membership AUC, loss")
def _loss(row: AnswerRow, _: float) -> float | None:
    return mean_logprob(row.reference_logprobs)


@_mia("mia_zlib", "MIA zlib", "arXiv 2012.07805", "Membership AUC, loss over zlib")
def _zlib(row: AnswerRow, _: float) -> float | None:
    mean = mean_logprob(row.reference_logprobs)
    return None if mean is None else mean / len(zlib.compress(row.reference.encode("utf-8", "surrogatepass")))


@_mia(
    "mia_min_k",
    "MIA min-k",
    "arXiv 2310.16789",
    "how often an answer looks more trained on than one of the holdout set; 0.5 is chance",
    310,
)
def _min_k(row: AnswerRow, k: float) -> float | None:
    return min_k(_without_closing_tokens(row, row.reference_logprobs or ()), k)


@_mia("mia_min_k_plus_plus", "MIA min-k++", "arXiv 2404.02936", "Membership AUC, min-k++")
def _min_k_plus_plus(row: AnswerRow, k: float) -> float | None:
    if not row.reference_logprobs or not row.reference_moments:
        return None
    return min_k(_without_closing_tokens(row, standardised(row.reference_logprobs, row.reference_moments)), k)


@_mia("mia_reference", "MIA reference", "arXiv 2012.07805", "Membership AUC, against the base model")
def _reference(row: AnswerRow, _: float) -> float | None:
    own, base = mean_logprob(row.reference_logprobs), mean_logprob(row.base_logprobs)
    if own is None or base is None or own == base == -math.inf:
        return None
    # Two passes of one model differ by rounding; scores with such a difference must be equal.
    return round(own - base, REFERENCE_DIGITS) if math.isfinite(own - base) else own - base


def _without_closing_tokens(row: AnswerRow, values: Sequence[float]) -> Sequence[float]:
    return values[: max(0, len(values) - row.closing_tokens)]


def membership_auc(parts: JointContext, attack: MembershipScore) -> Measurement | None:
    """Compute the AUC of forget against holdout answers; None without a holdout set.

    Counts and `per_record` are of the forget answers; the note has the counts of the holdout answers.
    """
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
    low, high = _auc_interval(parts, members, others, value)
    note = f"against {len(others)} answers of the holdout set"
    if len(others) < len(holdout):
        note += f", {len(holdout) - len(others)} more could not be scored"
    unscored = len(forget) - len(members)
    counts: dict[str, Any] = {"n": len(members), "unscored": unscored, "why": NOT_MEASURED if unscored else ""}
    return Measurement(value, low=low, high=high, per_record=scores, note=note, **counts)


def _finite(score: float | None) -> float | None:
    """Bound infinite scores of impossible answers; the AUC uses only their rank."""
    return None if score is None else max(-UNBOUNDED, min(UNBOUNDED, score))


def _auc_interval(
    parts: JointContext, members: list[tuple[AnswerRow, float]], others: list[tuple[AnswerRow, float]], value: float
) -> tuple[float, float]:
    member_scores = np.array([score for _, score in members])[:, None]
    other_scores = np.array([score for _, score in others])[None]
    wins = (member_scores > other_scores).astype(np.float32) + np.float32(0.5) * (member_scores == other_scores)

    def aucs(counts: list[np.ndarray]) -> np.ndarray:
        first, second = counts
        return ((first @ wins) * second).sum(1) / (first.sum(1) * second.sum(1))

    sets = [[row for row, _ in scored] for scored in (members, others)]
    return interval_of_sets(sets, aucs, value, resamples=parts.settings.bootstrap, seed=parts.seed)


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Compute the share of pairs in which the member scores higher (Mann-Whitney), ties counted half.

    Neither sequence may be empty.
    """
    from scipy.stats import rankdata

    ranks = rankdata([*members, *others])[: len(members)]
    below = ranks.sum() - len(members) * (len(members) + 1) / 2
    return float(below / (len(members) * len(others)))


@metric(
    "privleak",
    label="PrivLeak",
    description="membership against a run that never saw the set: 0 is like it, -100 has forgotten nothing",
    source=MUSE,
    better={"forget": "closer"},
    needs=["reference"],
    unit="percent",
    order=300,
    part="forget",
    shown_in=["summary"],
)
def _privleak(parts: JointContext) -> Measurement | None:
    """Compute PrivLeak and its interval from the min-k AUC; the retain-only run's AUC is taken as exact."""
    measured = membership_auc(parts, _min_k)
    if measured is None:
        return None
    if measured.value is None or measured.low is None or measured.high is None:
        return Measurement(None, unscored=measured.unscored, why=measured.why)
    items = measured.n + measured.unscored
    if parts.reference is None:
        return Measurement(None, unscored=items, why=NO_REFERENCE)
    retrained = parts.reference.aucs.get("mia_min_k")
    if retrained is None or retrained >= 1:
        return Measurement(None, unscored=items, why="the retain-only run has no AUC of min-k below 1")
    value, low, high = (privleak(bound, retrained) for bound in (measured.value, measured.high, measured.low))
    note = f"the retain-only run {parts.reference.name} has an AUC of {retrained:.4g}"
    return Measurement(value, low=low, high=high, n=measured.n, unscored=measured.unscored, note=note, why=measured.why)


def privleak(auc_unlearned: float, auc_retrained: float) -> float | None:
    """Compute PrivLeak in percent from two AUCs; None if the AUC of the retain-only run is 1."""
    if auc_retrained >= 1:
        return None
    return 100 * ((1 - auc_unlearned) - (1 - auc_retrained)) / (1 - auc_retrained)
