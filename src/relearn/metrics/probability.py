"""How likely the model finds the reference answer (TOFU, arXiv 2401.06121).

    P(a | q) = exp(mean log-probability of the answer's tokens), the end of turn included

`probability_options` sets it against wrong answers of like form: P(a) / (P(a) + sum of P(wrong)), which is how TOFU
asks about real authors and world facts. A text without tokens has no probability and is unscored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, Metric

SOURCE = "arXiv 2401.06121"
NO_LOGPROBS = "no log-probabilities of the reference"
NO_WRONG_ANSWERS = "no wrong answers to set it against"


def mean_logprob(logprobs: Sequence[float] | None) -> float | None:
    """The mean over the tokens; -inf where one of them is impossible, None where there is no token or no number."""
    if not logprobs:
        return None
    mean = math.fsum(logprobs) / len(logprobs) if -math.inf not in logprobs else -math.inf
    return None if math.isnan(mean) else mean


def probability(logprobs: Sequence[float] | None) -> float | None:
    """P^(1/|a|), the geometric mean of the tokens' probabilities, in [0, 1]."""
    mean = mean_logprob(logprobs)
    return None if mean is None else math.exp(mean)


def option_probability(answer: Sequence[float] | None, wrong: Sequence[Sequence[float]] | None) -> float | None:
    """The answer's share of the probability of all options; None where it or all the wrong ones were not measured."""
    own = mean_logprob(answer)
    others = [mean for logprobs in wrong or () if (mean := mean_logprob(logprobs)) is not None]
    if own is None or not others or max(own, *others) == -math.inf:
        return None
    return 1 / math.fsum(math.exp(min(other - own, 700)) for other in (own, *others)) if own > -math.inf else 0.0


def bring_wrong_answers(rows: Sequence[AnswerRow], _: Sequence[AnswerRow]) -> bool:
    """Whether there is anything to set the right answers against."""
    return any(row.perturbed_logprobs is not None for row in rows)


def _probability(context: Context) -> Measurement:
    return context.mean([probability(row.reference_logprobs) for row in context.rows], why=NO_LOGPROBS)


def _options(context: Context) -> Measurement:
    return context.mean([_option(row) for row in context.rows], why=f"{NO_LOGPROBS}, or {NO_WRONG_ANSWERS}")


def _option(row: AnswerRow) -> float | None:
    return option_probability(row.reference_logprobs, row.perturbed_logprobs)


METRICS.add(
    "probability",
    Metric(
        "probability", "Probability of the reference", SOURCE, {"forget": "lower", "retain": "higher"}, _probability,
        ("reference",),
    ),
)  # fmt: skip
METRICS.add(
    "probability_options",
    Metric(
        "probability_options", "Probability of the reference among wrong answers", SOURCE,
        {"forget": "lower", "retain": "higher"}, _options, ("reference",), bring_wrong_answers,
    ),
)  # fmt: skip
