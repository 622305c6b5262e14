"""TOFU's two numbers for a whole model (arXiv 2401.06121): what it still can do, and how like a retrained one it is.

    model utility    the harmonic mean of nine: probability, ROUGE-L recall and truth ratio (max(0, 1 - R)), each on
                     what is to be kept, on real authors and on world facts; of the last two the probability among
                     wrong answers
    forget quality   the p-value of a two-sample Kolmogorov-Smirnov test between the truth ratios of the forget set
                     under this model and under one that never saw it

What is to be kept is measured on the part retain, or, where its rows bring no wrong answers, on retain_heldout. A
p-value says how surely two models differ, not by how much, and depends on the number of questions: compare it only
between runs on the same set, and read it on a logarithmic scale.

Truth ratio (TOFU, arXiv 2401.06121): are wrong answers as likely as the right one in other words?

    R = P(wrong) / P(paraphrase),   P = exp(mean log-probability per token)

P(wrong) is the geometric mean over the wrong answers, as the public codes compute it (their mean negative
log-likelihoods are averaged first); `metrics.truth_ratio: arithmetic` averages the probabilities, as the paper writes
it. Where the data have no paraphrase (real authors, world facts) the reference itself stands in its place. Of an item,

    true_better         max(0, 1 - R)       the right answer stands out: what is to be kept
    closer_to_1_better  min(R, 1/R)         right and wrong are alike: what is to be forgotten
    prob_mean           1 / (1 + R)         P(paraphrase) / (P(paraphrase) + P(wrong)), for comparing models

All are worked out from ln R, so that no answer is too unlikely for them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.intervals import interval_of_sets
from relearn.metrics.joint_context import Parts
from relearn.metrics.membership import NO_REFERENCE
from relearn.metrics.memorization import PROBABILITY_SOURCE, bring_wrong_answers, mean_logprob
from relearn.metrics.metric import METRICS, Better, JointMetric, Measurement, Metric, Split

Mean = Literal["geometric", "arithmetic"]
MISSING = "no wrong answers, or no log-probabilities of them"


def log_truth_ratio(
    paraphrased: Sequence[float] | None, perturbed: Sequence[Sequence[float]] | None, mean: Mean = "geometric"
) -> float | None:
    """ln R, of the token log-probabilities of the right answer and of every wrong one; +-inf where one is impossible.

    None where either side has no tokens, or where both are impossible.
    """
    right = mean_logprob(paraphrased)
    wrong = [value for logprobs in perturbed or () if (value := mean_logprob(logprobs)) is not None]
    if right is None or not wrong:
        return None
    top = _log_mean(wrong) if mean == "arithmetic" else _plain_mean(wrong)
    return None if top == right == -math.inf else top - right


def true_better(log_ratio: float) -> float:
    return -math.expm1(min(log_ratio, 0.0))


def closer_to_1_better(log_ratio: float) -> float:
    return math.exp(-abs(log_ratio))


def prob_mean(log_ratio: float) -> float:
    small = math.exp(-abs(log_ratio))
    return (small if log_ratio > 0 else 1.0) / (1 + small)


def row_log_ratio(row: AnswerRow, mean: Mean = "geometric") -> float | None:
    """ln R of a row, against the paraphrase where it has one, else against the reference."""
    right = row.paraphrased_logprobs if row.paraphrased_logprobs is not None else row.reference_logprobs
    return log_truth_ratio(right, row.perturbed_logprobs, mean)


def log_ratios(context: Context) -> list[float | None]:
    """ln R of every row, in order."""
    return [row_log_ratio(row, context.settings.truth_ratio) for row in context.rows]


def _plain_mean(values: Sequence[float]) -> float:
    return -math.inf if -math.inf in values else math.fsum(values) / len(values)


def _log_mean(values: Sequence[float]) -> float:
    """ln of the mean of exp(values)."""
    most = max(values)
    if most == -math.inf:
        return most
    return most + math.log(math.fsum(math.exp(value - most) for value in values) / len(values))


def _measure(context: Context, of_item: Callable[[float], float]) -> Measurement:
    return context.mean([None if value is None else of_item(value) for value in log_ratios(context)], why=MISSING)


def _add(name: str, title: str, better: dict[Split, Better], of_item: Callable[[float], float]) -> None:
    METRICS.add(
        name,
        Metric(
            name,
            title,
            PROBABILITY_SOURCE,
            better,
            lambda context: _measure(context, of_item),
            ("reference",),
            bring_wrong_answers,
        ),
    )


_add("truth_ratio_true", "Truth ratio, max(0, 1 - R)", {"forget": "lower", "retain": "higher"}, true_better)
_add("truth_ratio_closer", "Truth ratio, min(R, 1/R)", {"forget": "higher"}, closer_to_1_better)
_add(
    "truth_ratio_prob",
    "Truth ratio, paraphrase against wrong answers",
    {"forget": "lower", "retain": "higher"},
    prob_mean,
)


KEPT = ("probability", "rouge_l", "truth_ratio_true")
GENERAL = ("probability_options", "rouge_l", "truth_ratio_true")
PARTS = {"real_authors": "real authors", "world_facts": "world facts"}


def harmonic_mean(values: list[float]) -> float:
    """0 where one of them is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def forget_quality(log_ratios: list[float], retrained: list[float]) -> float:
    """The p-value of the two-sample KS test, exact where scipy computes it so; neither may be empty."""
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        # Where the exact p-value is out of its reach scipy warns and takes the asymptotic one, as the public codes do.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(ks_2samp(log_ratios, retrained).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def _utility(parts: Parts) -> Measurement | None:
    """None where neither real authors nor world facts were asked."""
    if not any(parts.rows(part) for part in PARTS):
        return None
    kept = _kept_part(parts)
    wanted = [(kept, KEPT), *((part, GENERAL) for part in PARTS)]
    missing = [f"{name} of {part}" for part, names in wanted for name in names if not _has(parts, part, name)]
    items = sum(len(parts.rows(part)) for part, _ in wanted)
    if missing:
        return Measurement(None, unscored=items, why=f"not measured: {', '.join(missing)}")
    sets = [sorted(parts.rows(part), key=lambda row: row.id) for part, _ in wanted]
    columns = [_columns(parts, part, names, rows) for (part, names), rows in zip(wanted, sets, strict=True)]
    value = harmonic_mean([float(np.nanmean(column)) for table in columns for column in table.T])
    low, high = interval_of_sets(
        sets, lambda drawn: _harmonic(columns, drawn), value, resamples=parts.settings.bootstrap, seed=parts.seed
    )
    whole = sum(int((~np.isnan(table)).all(axis=1).sum()) for table in columns)
    why = "one of the three numbers of the item is missing" if whole < items else ""
    return Measurement(value, low, high, whole, items - whole, note=f"what is kept: {kept}", why=why)


def _kept_part(parts: Parts) -> str:
    return next((part for part in ("retain", "retain_heldout") if _has(parts, part, "truth_ratio_true")), "retain")


def _has(parts: Parts, part: str, name: str) -> bool:
    return bool(parts.rows(part)) and parts.measured(part, name).value is not None


def _columns(parts: Parts, part: str, names: tuple[str, ...], rows: list[AnswerRow]) -> np.ndarray:
    """(rows, 3) of the items' values, nan where one is unscored."""
    found = [parts.measured(part, name).per_record for name in names]
    return np.array([[np.nan if (value := of[row.id]) is None else value for of in found] for row in rows], dtype=float)


def _harmonic(columns: list[np.ndarray], drawn: list[np.ndarray]) -> np.ndarray:
    """(resamples,); nan where a resample has no scored item of one of the nine."""
    means = []
    for table, weights in zip(columns, drawn, strict=True):
        known = ~np.isnan(table)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((weights @ np.where(known, table, 0)) / (weights @ known.astype(float)))
    nine = np.concatenate(means, axis=1)
    with np.errstate(divide="ignore"):
        harmonic = nine.shape[1] / (1 / nine).sum(axis=1)
    return harmonic


def _quality(parts: Parts) -> Measurement | None:
    """None where the forget set brings no wrong answers and no reference was named. A p-value has no interval."""
    context = parts.contexts.get("forget")
    if context is None or not context.rows:
        return None
    ratios = log_ratios(context)
    known = [ratio for ratio in ratios if ratio is not None]
    if not known and parts.reference is None:
        return None
    why = _why_no_quality(parts, context, bool(known))
    if why or parts.reference is None:
        return Measurement(None, unscored=len(ratios), why=why)
    value = forget_quality(known, list(parts.reference.log_ratios))
    note = f"against {len(parts.reference.log_ratios)} truth ratios of {parts.reference.name}"
    left_out = len(ratios) - len(known)
    return Measurement(value, None, None, len(known), left_out, note=note, why=MISSING if left_out else "")


def _why_no_quality(parts: Parts, context: Context, known: bool) -> str:
    if not known:
        return MISSING
    if parts.reference is None:
        return NO_REFERENCE
    return "" if parts.reference.log_ratios else f"{parts.reference.name} has no truth ratios"


METRICS.add(
    "model_utility",
    JointMetric("model_utility", "Model utility", PROBABILITY_SOURCE, "overall", {"retain": "higher"}, _utility),
)
METRICS.add(
    "forget_quality",
    JointMetric(
        "forget_quality",
        "Forget quality, p-value",
        PROBABILITY_SOURCE,
        "forget",
        {"forget": "higher"},
        _quality,
        needs=("reference",),
    ),
)
