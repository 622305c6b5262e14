"""Measure fluency by word counts and perplexity: PPL, Brunet's index, Honoré's statistic, and the linguistic score LS.

`lexical_indices.py` has the formulas. `ls_paper` is LS of the means over the data set, as in arXiv 2502.11190; a single
huge perplexity makes it 0. `ls` is the mean and `ls_median` the median of LS over the responses, where LS of gibberish
is 0: the formula favours short answers, so that without this a model whose answers break off is above an intact one.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from relearn.metrics.context import Context
from relearn.metrics.gibberish import row_gibberish
from relearn.metrics.intervals import bootstrap, median_interval, value_of
from relearn.metrics.lexical_indices import linguistic_score
from relearn.metrics.metric import Better, Measurement, ScoredSplit, metric

PAPER = "arXiv 2502.11190"
NO_LOGPROBS = "no log-probabilities of the response"
MAX_LS = 0.6
HIGHER: dict[ScoredSplit, Better] = {"forget": "higher", "retain": "higher"}
LOWER: dict[ScoredSplit, Better] = {"forget": "lower", "retain": "lower"}


_perplexity_metric = partial(metric, source=PAPER, needs=["logprobs"])


@_perplexity_metric(
    "ppl",
    label="PPL",
    description="how surprising the answers are to the base model",
    better=LOWER,
    unit="number",
    order=320,
    shown_in=["summary"],
)
def ppl(context: Context) -> Measurement:
    values = [counts.ppl for counts in context.lexical_counts]
    scored = [value for value in values if value is not None]
    return context.mean(values, f"median {np.median(scored):.4g}" if scored else _missing(context), NO_LOGPROBS)


def _add_index(name: str, description: str, source: str, better: dict[ScoredSplit, Better], order: int) -> None:
    metric(name, label=name.upper(), description=description, source=source, better=better, unit="number", order=order)(
        lambda context: [getattr(counts, name) for counts in context.lexical_counts]
    )


_add_index("bi", "vocabulary; lower is richer", "Brunet 1978", LOWER, 330)
_add_index("hs", "words used once; higher is richer", "Honoré 1979", HIGHER, 340)


@_perplexity_metric(
    "ls",
    label="LS",
    description="fluency of each answer, 0 for gibberish; at most 0.6",
    better=HIGHER,
    order=40,
    shown_in=("chart", "summary"),
)
def ls(context: Context) -> Measurement:
    return context.bounded_mean(_ls_values(context), _missing(context), NO_LOGPROBS, (0.0, MAX_LS))


@_perplexity_metric("ls_median", label="LS median", description="the same, the middle answer", better=HIGHER, order=50)
def ls_median(context: Context) -> Measurement:
    return context.summarise(_ls_values(context), median_interval, _missing(context), NO_LOGPROBS)


@_perplexity_metric(
    "ls_paper",
    label="LS (paper)",
    description="fluency from means over the set, as the paper computes it",
    better=HIGHER,
    order=60,
    shown_in=["summary"],
)
def ls_paper(context: Context) -> Measurement:
    """Compute LS of the means of PPL, BI and HS; empty answers have no perplexity, but count in the other means."""
    counts = context.lexical_counts
    per_record = dict(zip((row.id for row in context), _ls_values(context), strict=True))
    scored = (
        [] if _lacks_perplexity(context) else [at for at, own in enumerate(counts) if own.ppl is not None or not own.n]
    )
    unscored = len(counts) - len(scored)
    if not scored:
        note = _missing(context)
        return Measurement(None, unscored=unscored, per_record=per_record, note=note, why=NO_LOGPROBS)
    indices = context.sorted_by_id(scored)
    clusters = context.clusters(indices)
    columns = np.array([[_nan_if_none(counts[at].ppl), counts[at].bi, counts[at].hs] for at in indices])
    low, high = bootstrap(
        columns,
        _score_of_means,
        clusters=clusters.codes.tolist(),
        resamples=context.settings.bootstrap,
        seed=context.seed,
    )
    note = "; ".join(filter(None, ("data set means first, as in the paper", clusters.note)))
    sizes: dict[str, Any] = {"n": len(indices), "unscored": unscored, "clusters": clusters.count}
    value = value_of(columns, _score_of_means)
    return Measurement(value, low=low, high=high, per_record=per_record, note=note, why=NO_LOGPROBS, **sizes)


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else value


def _score_of_means(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute LS of the means: (items, 3) of PPL (nan = none), BI, HS and (resamples, items) draws -> (resamples,)."""
    measured = ~np.isnan(columns[:, 0])
    ppl = weights @ np.where(measured, columns[:, 0], 0.0) / np.maximum(weights @ measured, 1)
    bi, hs = (weights @ columns[:, 1:] / weights.sum(axis=1, keepdims=True)).T
    return linguistic_score(ppl, bi, hs)


def _ls_values(context: Context) -> list[float | None]:
    """Compute LS of every answer; 0 for gibberish, None if no perplexity was measured."""
    if _lacks_perplexity(context):
        return [None] * len(context)
    pairs = zip(context, context.lexical_counts, strict=True)
    return [None if counts.ls is None else counts.ls * (row_gibberish(row) is None) for row, counts in pairs]


def _lacks_perplexity(context: Context) -> bool:
    """Return True if no perplexity was measured and an answer has words; zeros of empty answers are then no value."""
    return bool(_missing(context)) and any(counts.n for counts in context.lexical_counts)


def _missing(context: Context) -> str:
    measured = any(row.response_logprobs is not None for row in context)
    return "" if measured else "the answers carry no log-probabilities"
