"""How well the answers are written: perplexity, Brunet's index, Honoré's statistic, and the linguistic score of them.

`language.py` has the formulas. One huge perplexity in the data set's mean brings LS to 0. So LS is given as the paper
(arXiv 2502.11190) computes it (`ls_paper`: means over the data set first) and of each response (`ls` mean, `ls_median`
median).
"""

from __future__ import annotations

import math

import numpy as np

from relearn.metrics.context import Context
from relearn.metrics.intervals import bootstrap, mean_interval, median_interval, value_of
from relearn.metrics.metric import METRICS, Better, Measurement, Metric, Need

SOURCE = "arXiv 2502.11190"
NO_LOGPROBS = "no log-probabilities of the response"


def _ls_paper(context: Context) -> Measurement:
    """Means over the data set, then the score. Empty answers have no perplexity but weigh on both other means."""
    language = context.language
    scored = [] if _unmeasured(context) else [item for item in language if item.ppl is not None or item.n == 0]
    per_record = dict(zip((row.id for row in context.rows), _ls_values(context), strict=True))
    unscored = len(language) - len(scored)
    if not scored:
        return Measurement(None, unscored=unscored, per_record=per_record, note=_missing(context), why=NO_LOGPROBS)
    places = context.in_order(at for at, item in enumerate(language) if item.ppl is not None or item.n == 0)
    clusters = context.clusters(places)
    ordered = [language[at] for at in places]
    columns = np.array([[math.nan if item.ppl is None else item.ppl, item.bi, item.hs] for item in ordered])
    low, high = bootstrap(
        columns,
        _score_of_means,
        clusters=clusters.codes.tolist(),
        resamples=context.settings.bootstrap,
        seed=context.seed,
    )
    note = "; ".join(filter(None, ("data set means first, as in the paper", clusters.note)))
    value = value_of(columns, _score_of_means)
    return Measurement(value, low, high, len(places), unscored, per_record, note, NO_LOGPROBS, clusters.count)


def _score_of_means(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(items, 3) of PPL (nan = none), BI, HS and (resamples, items) draws -> (resamples,); 0 where HS is."""
    measured = ~np.isnan(columns[:, 0])
    ppl = weights @ np.where(measured, columns[:, 0], 0.0) / np.maximum(weights @ measured, 1)
    bi, hs = (weights @ columns[:, 1:] / weights.sum(axis=1, keepdims=True)).T
    return np.where(hs > 0, 3 / (3 + ppl + bi + 1 / np.where(hs > 0, hs, 1.0)), 0.0)


def _ppl(context: Context) -> Measurement:
    values = [item.ppl for item in context.language]
    scored = [value for value in values if value is not None]
    return context.mean(values, f"median {np.median(scored):.4g}" if scored else _missing(context), NO_LOGPROBS)


def _bi(context: Context) -> Measurement:
    return context.mean([item.bi for item in context.language])


def _hs(context: Context) -> Measurement:
    return context.mean([item.hs for item in context.language])


def _ls(context: Context, statistic=mean_interval) -> Measurement:
    return context.summarise(_ls_values(context), statistic, _missing(context), NO_LOGPROBS)


def _ls_values(context: Context) -> list[float | None]:
    return [None if _unmeasured(context) else item.ls for item in context.language]


def _unmeasured(context: Context) -> bool:
    """No perplexity was measured of answers that have one: the zeros of empty answers cannot stand for the set."""
    return bool(_missing(context)) and any(item.n for item in context.language)


def _missing(context: Context) -> str:
    measured = any(row.response_logprobs is not None for row in context.rows)
    return "" if measured else "the answers carry no log-probabilities"


def _add(name: str, title: str, source: str, better: Better, measure, needs: tuple[Need, ...] = ()) -> None:
    METRICS.add(name, Metric(name, title, source, {"forget": better, "retain": better}, measure, needs))


_add("ppl", "Perplexity", SOURCE, "lower", _ppl, ("logprobs",))
_add("bi", "Brunet's index", "Brunet 1978", "lower", _bi)
_add("hs", "Honoré's statistic", "Honoré 1979", "higher", _hs)
_add("ls", "Linguistic score per answer, mean", SOURCE, "higher", _ls, ("logprobs",))
_add(
    "ls_median",
    "Linguistic score per answer, median",
    SOURCE,
    "higher",
    lambda context: _ls(context, median_interval),
    ("logprobs",),
)
_add("ls_paper", "Linguistic score of data set means", SOURCE, "higher", _ls_paper, ("logprobs",))
