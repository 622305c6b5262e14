"""Measure TOFU's truth ratio, model utility and forget quality (arXiv 2401.06121).

Truth ratio: the probability of wrong answers relative to a paraphrase of the right answer.

    R = P(wrong) / P(paraphrase),   P = exp(mean log-probability per token)

P(wrong) is the geometric mean over the wrong answers, as in public code; `metrics.truth_ratio: arithmetic` takes the
arithmetic mean, as in the paper. Without a paraphrase (real authors, world facts) the reference is used. Values per
item, all computed from ln R so that very unlikely answers do not underflow:

    true_better         max(0, 1 - R)       high if the right answer is likelier: for the retain set
    closer_to_1_better  min(R, 1/R)         high if both are equally likely: for the forget set
    prob_mean           1 / (1 + R)         P(paraphrase) / (P(paraphrase) + P(wrong)), for comparing models

Model utility: harmonic mean of nine: probability, ROUGE-L recall and truth ratio (true_better), each on the retain
part, on real authors and on world facts; on the last two the probability among wrong answers. The retain part is
`retain` or, where its rows have no wrong answers, `retain_heldout`.

Forget quality: p-value of a two-sample Kolmogorov-Smirnov test between the truth ratios of the forget set under this
model and under a model not trained on it. It depends on the number of questions: compare it only between runs on the
same set, on a logarithmic scale.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context, JointContext
from relearn.metrics.intervals import harmonic_mean, interval_of_sets
from relearn.metrics.membership import NO_REFERENCE
from relearn.metrics.memorization import TOFU, has_wrong_answers, mean_logprob
from relearn.metrics.metric import Better, Measurement, ScoredSplit, metric

WrongAnswerMean = Literal["geometric", "arithmetic"]
NO_TRUTH_RATIO = "no wrong answers, or no log-probabilities of them"
UTILITY_OF_RETAIN = ("probability", "rouge_l", "truth_ratio_true")
UTILITY_OF_OTHERS = ("probability_options", "rouge_l", "truth_ratio_true")
OTHER_PARTS = ("real_authors", "world_facts")


def log_truth_ratio(
    paraphrased: Sequence[float] | None,
    perturbed: Sequence[Sequence[float]] | None,
    mean: WrongAnswerMean = "geometric",
) -> float | None:
    """Compute ln R from the token log-probabilities of the right and of every wrong answer.

    +-inf if one side is impossible; None if one has no tokens or both are impossible.
    """
    right = mean_logprob(paraphrased)
    wrong = [value for logprobs in perturbed or () if (value := mean_logprob(logprobs)) is not None]
    if right is None or not wrong:
        return None
    top = _log_of_mean(wrong) if mean == "arithmetic" else _mean(wrong)
    return None if top == right == -math.inf else top - right


def row_log_ratio(row: AnswerRow, mean: WrongAnswerMean = "geometric") -> float | None:
    """Compute ln R of a row, with the paraphrase if it has one, else with the reference."""
    right = row.paraphrased_logprobs if row.paraphrased_logprobs is not None else row.reference_logprobs
    return log_truth_ratio(right, row.perturbed_logprobs, mean)


def _mean(values: Sequence[float]) -> float:
    return -math.inf if -math.inf in values else math.fsum(values) / len(values)


def _log_of_mean(values: Sequence[float]) -> float:
    """Compute ln of the mean of exp(values)."""
    most = max(values)
    if most == -math.inf:
        return most
    return most + math.log(math.fsum(math.exp(value - most) for value in values) / len(values))


def true_better(log_ratio: float) -> float:
    return -math.expm1(min(log_ratio, 0.0))


def closer_to_1_better(log_ratio: float) -> float:
    return math.exp(-abs(log_ratio))


def prob_mean(log_ratio: float) -> float:
    small = math.exp(-abs(log_ratio))
    return (small if log_ratio > 0 else 1.0) / (1 + small)


def _add_truth_ratio(
    name: str,
    of_item: Callable[[float], float],
    *,
    label: str,
    description: str,
    better: Mapping[ScoredSplit, Better],
    order: int,
) -> None:
    def measure(context: Context) -> list[float | None]:
        return [None if value is None else of_item(value) for value in _log_ratios(context)]

    metric(
        name,
        label=f"Truth ratio {label}",
        description=description,
        source=TOFU,
        better=better,
        needs=["reference"],
        order=order,
        unscored=NO_TRUTH_RATIO,
        applies=has_wrong_answers,
    )(measure)


_add_truth_ratio(
    "truth_ratio_closer",
    closer_to_1_better,
    label="min(R, 1/R)",
    description="wrong answers against right ones; 1 where both are as likely",
    better={"forget": "higher"},
    order=250,
)
_add_truth_ratio(
    "truth_ratio_true",
    true_better,
    label="max(0, 1 - R)",
    description="the same; 1 where wrong ones are out of the question",
    better={"forget": "lower", "retain": "higher"},
    order=260,
)
_add_truth_ratio(
    "truth_ratio_prob",
    prob_mean,
    label="1/(1 + R)",
    description="the same; 0.5 where both are as likely",
    better={"forget": "lower", "retain": "higher"},
    order=270,
)


def _log_ratios(context: Context) -> list[float | None]:
    return [row_log_ratio(row, context.settings.truth_ratio) for row in context]


@metric(
    "model_utility",
    label="Model utility",
    description="harmonic mean of probability, ROUGE-L and truth ratio on what is kept and what all know",
    source=TOFU,
    better={"retain": "higher"},
    order=290,
    part="overall",
    shown_in=["summary"],
)
def model_utility(parts: JointContext) -> Measurement | None:
    """Compute model utility; None without rows of real authors and world facts."""
    if not any(parts.rows(part) for part in OTHER_PARTS):
        return None
    retain = _retain_part(parts)
    names_by_part = {retain: UTILITY_OF_RETAIN, **dict.fromkeys(OTHER_PARTS, UTILITY_OF_OTHERS)}
    missing = [
        f"{name} of {part}" for part, names in names_by_part.items() for name in names if not _has(parts, part, name)
    ]
    items = sum(len(parts.rows(part)) for part in names_by_part)
    if missing:
        return Measurement(None, unscored=items, why=f"not measured: {', '.join(missing)}")
    sets = [sorted(parts.rows(part), key=lambda row: row.id) for part in names_by_part]
    tables = [
        _item_values(parts, part, names, rows) for (part, names), rows in zip(names_by_part.items(), sets, strict=True)
    ]
    value = harmonic_mean([float(np.nanmean(column)) for table in tables for column in table.T])
    low, high = interval_of_sets(
        sets, lambda counts: _utilities(tables, counts), value, resamples=parts.settings.bootstrap, seed=parts.seed
    )
    scored = sum(int((~np.isnan(table)).all(axis=1).sum()) for table in tables)
    note, why = f"what is kept: {retain}", "one of the three numbers of the item is missing" if scored < items else ""
    return Measurement(value, low=low, high=high, n=scored, unscored=items - scored, note=note, why=why)


def _retain_part(parts: JointContext) -> str:
    return next((part for part in ("retain", "retain_heldout") if _has(parts, part, "truth_ratio_true")), "retain")


def _has(parts: JointContext, part: str, name: str) -> bool:
    return bool(parts.rows(part)) and parts.measurement(part, name).value is not None


def _item_values(parts: JointContext, part: str, names: tuple[str, ...], rows: list[AnswerRow]) -> np.ndarray:
    """Return the values of the items, (rows, 3), nan if unscored."""
    columns = [parts.measurement(part, name).per_record for name in names]
    return np.array([[np.nan if (value := of[row.id]) is None else value for of in columns] for row in rows], float)


def _utilities(tables: list[np.ndarray], counts: list[np.ndarray]) -> np.ndarray:
    """Compute the model utility of every resample, (resamples,); nan if one of the nine values has no scored item.

    tables: (rows, 3) values per set; counts: (resamples, rows) draw counts of the rows per set.
    """
    means = []
    for table, weights in zip(tables, counts, strict=True):
        known = ~np.isnan(table)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((weights @ np.where(known, table, 0)) / (weights @ known.astype(float)))
    nine = np.concatenate(means, axis=1)
    with np.errstate(divide="ignore"):
        return nine.shape[1] / (1 / nine).sum(axis=1)


@metric(
    "forget_quality",
    label="Forget quality",
    description="p-value against a run that never saw what is to be forgotten; read it on a logarithmic scale",
    source=TOFU,
    better={"forget": "higher"},
    needs=["reference"],
    order=280,
    part="forget",
    shown_in=["summary"],
)
def _forget_quality(parts: JointContext) -> Measurement | None:
    """Compute forget quality, without an interval; None without wrong answers and without a retain-only run."""
    context = parts.contexts.get("forget")
    if context is None or not context.rows:
        return None
    ratios = [ratio for ratio in _log_ratios(context) if ratio is not None]
    reference = parts.reference
    if not ratios and reference is None:
        return None
    if not ratios:
        return Measurement(None, unscored=len(context), why=NO_TRUTH_RATIO)
    if reference is None:
        return Measurement(None, unscored=len(context), why=NO_REFERENCE)
    if not reference.log_ratios:
        return Measurement(None, unscored=len(context), why=f"{reference.name} has no truth ratios")
    value = forget_quality(ratios, list(reference.log_ratios))
    unscored = len(context) - len(ratios)
    note = f"against {len(reference.log_ratios)} truth ratios of {reference.name}"
    return Measurement(value, n=len(ratios), unscored=unscored, note=note, why=NO_TRUTH_RATIO if unscored else "")


def forget_quality(log_ratios: list[float], retain_only: list[float]) -> float:
    """Compute the p-value of the two-sample KS test, exact if scipy can; neither list may be empty."""
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        # If scipy cannot compute the exact p-value, it warns and takes the asymptotic one, as public code does.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(ks_2samp(log_ratios, retain_only).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
