"""Truth ratio (TOFU, arXiv 2401.06121): are wrong answers as likely as the right one in other words?

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
from collections.abc import Callable, Sequence
from typing import Literal

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, Better, Metric, Split
from relearn.metrics.probability import SOURCE, bring_wrong_answers, mean_logprob

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
            name, title, SOURCE, better, lambda context: _measure(context, of_item), ("reference",),
            bring_wrong_answers,
        ),
    )  # fmt: skip


_add("truth_ratio_true", "Truth ratio, max(0, 1 - R)", {"forget": "lower", "retain": "higher"}, true_better)
_add("truth_ratio_closer", "Truth ratio, min(R, 1/R)", {"forget": "higher"}, closer_to_1_better)
_add(
    "truth_ratio_prob", "Truth ratio, paraphrase against wrong answers", {"forget": "lower", "retain": "higher"},
    prob_mean,
)  # fmt: skip
