"""How well the answers are written: perplexity, Brunet's index, Honoré's statistic, and the linguistic score of them.

    PPL = exp(-mean log-probability of the response's tokens under the model before any fine-tuning)
    BI  = N ^ (V ^ -0.165)                                   lower is richer
    HS  = 100 ln N / (1 - V1/V + 0.1), at most 1e6, 0 if N <= 1     higher is richer
    LS  = harmonic mean of s(-ln PPL), s(-ln BI), s(ln HS),  s = sigmoid          (arXiv 2502.11190, equations 3 to 5)

N tokens, V different ones, V1 that occur once. Since s(-ln x) = 1/(1+x), LS = 3 / (3 + PPL + BI + 1/HS): at most 0.6,
and one huge perplexity in the data set's mean brings it to 0. So LS is given as the paper computes it (`ls_paper`:
means over the data set first) and of each response (`ls` mean, `ls_median` median).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from relearn.metrics.answers import AnswerRow
from relearn.metrics.base import METRICS, Better, Context, Metric, Need
from relearn.metrics.measurement import Measurement
from relearn.metrics.stats import bootstrap, mean_interval, median_interval, value_of
from relearn.text.tokenise import words

SOURCE = "arXiv 2502.11190"
HS_CAP = 1e6
PPL_CAP = 1e30
# An empty answer has no index of its own; as in the paper's public code it counts as a very poor one.
EMPTY_BI = 1000.0
NO_LOGPROBS = "no log-probabilities of the response"


@dataclass(frozen=True)
class Language:
    """`n` tokens, `v` types, `v1` types seen once; `ppl` is None where no log-probability was measured."""

    n: int
    v: int
    v1: int
    ppl: float | None

    @property
    def bi(self) -> float:
        return brunet(self.n, self.v)

    @property
    def hs(self) -> float:
        return honore(self.n, self.v, self.v1)

    @property
    def ls(self) -> float | None:
        """An answer without words scores 0, measured or not; otherwise no perplexity means no score."""
        if self.n == 0:
            return 0.0
        return None if self.ppl is None else linguistic_score(self.ppl, self.bi, self.hs)


def language_of(row: AnswerRow) -> Language:
    tokens = words(row.response)
    counts: dict[str, int] = {}
    for token in tokens:
        counts[token] = counts.get(token, 0) + 1
    once = sum(count == 1 for count in counts.values())
    return Language(len(tokens), len(counts), once, perplexity(row.response_logprobs))


def perplexity(logprobs: tuple[float, ...] | None) -> float | None:
    """exp(-mean), at most 1e30 so that sums stay finite; None for what was not measured, is no number, or is empty."""
    if not logprobs:
        return None
    mean = sum(logprobs) / len(logprobs)
    if math.isnan(mean):
        return None
    return math.exp(min(-mean, math.log(PPL_CAP)))


def brunet(n: int, v: int) -> float:
    return EMPTY_BI if n == 0 else n ** (v**-0.165)


def honore(n: int, v: int, v1: int) -> float:
    if n <= 1:
        return 0.0
    return min(100 * math.log(n) / (1 - v1 / v + 0.1), HS_CAP)


def linguistic_score(ppl: float, bi: float, hs: float) -> float:
    """The closed form of the harmonic mean of the three sigmoids; 0 where Honoré's statistic is 0."""
    return 0.0 if hs <= 0 else 3 / (3 + ppl + bi + 1 / hs)


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
        columns, _score_of_means,
        clusters=clusters.codes.tolist(), resamples=context.settings.bootstrap, seed=context.seed,
    )  # fmt: skip
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
    "ls_median", "Linguistic score per answer, median", SOURCE, "higher",
    lambda context: _ls(context, median_interval), ("logprobs",),
)  # fmt: skip
_add("ls_paper", "Linguistic score of data set means", SOURCE, "higher", _ls_paper, ("logprobs",))
