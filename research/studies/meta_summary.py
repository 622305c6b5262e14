"""The arithmetic of the meta-evaluation: how well each metric tells models apart, and how that moves.

A metric's values are turned so that more means "knows more of the forget rows"; its AUC is how often a model that saw
them stands above one that never did, ties counted half. 1 tells all apart, 0.5 is chance, 0 tells them apart the wrong
way round. Intervals draw models: the two of one number, which share learning rate, epochs and seed, together.

Where there are unlearned models, robustness as in OpenUnlearning (arXiv 2506.12618), of values from 0 to 1:

    relearning   R = min(d_without / d_unlearned, 1),  d = value after relearning less value before
    rounding     Q = min(before / after, 1)
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from meta_models import CONDITIONS, RELEARNED, ROUNDED, TRAINED, UNLEARNED, WITH, WITHOUT

from relearn.metrics.intervals import bootstrap
from relearn.metrics.membership import auc
from relearn.metrics.metric import direction_of
from relearn.report.plots import INK, RC, to_svg

RESAMPLES = 2000
# Okabe and Ito 2008: told apart on light and dark ground, also by the colour-blind.
DRAWN = {
    TRAINED: ("as trained", "#0072b2", "o"),
    ROUNDED: ("rounded to 4 bits", "#d55e00", "s"),
    RELEARNED: ("after one epoch of relearning", "#009e73", "D"),
}
TITLES = {
    "kfr": "KFR",
    "graded_kfr": "graded KFR",
    "useful_forgetting": "useful forgetting",
    "worst_case": "worst case",
    "rouge_l": "ROUGE-L",
    "probability": "probability",
    "probability_options": "probability among options",
    "exact_memorisation": "exact memorisation",
    "extraction_strength": "extraction strength",
    "truth_ratio_prob": "truth ratio, P(right)",
    "truth_ratio_true": "truth ratio, 1 − R",
    "truth_ratio_closer": "truth ratio, min(R, 1/R)",
    "verbmem": "VerbMem",
    "knowmem": "KnowMem",
    "invented": "invented",
    "gibberish": "gibberish",
    "ls": "LS",
    "mia_loss": "membership AUC, loss",
    "mia_zlib": "membership AUC, zlib",
    "mia_min_k": "membership AUC, min-k",
    "mia_min_k_plus_plus": "membership AUC, min-k++",
    "mia_reference": "membership AUC, reference",
    "score_loss": "mean score, loss",
    "score_zlib": "mean score, zlib",
    "score_min_k": "mean score, min-k",
    "score_min_k_plus_plus": "mean score, min-k++",
    "score_reference": "mean score, reference",
    "reworded_kfr": "KFR, reworded question",
    "reworded_graded_kfr": "graded KFR, reworded question",
    "reworded_rouge_l": "ROUGE-L, reworded question",
    "reworded_probability": "probability, reworded question",
    "reworded_extraction_strength": "extraction strength, reworded question",
}


@dataclass(frozen=True)
class Model:
    """One model under its conditions: condition -> metric -> value, None or absent where it was not measured."""

    side: str
    index: int
    values: Mapping[str, Mapping[str, float | None]]
    name: str = ""

    def value(self, condition: str, metric: str) -> float | None:
        return self.values.get(condition, {}).get(metric)


def models_of(results: Sequence[Mapping[str, Any]]) -> list[Model]:
    """Results, one for each model and condition, as models."""
    found: dict[tuple[str, int, str], dict[str, dict[str, float | None]]] = {}
    for result in results:
        key = (result["side"], result["index"], result["name"])
        values = {name: measured["value"] for name, measured in result["metrics"].items()}
        found.setdefault(key, {})[result["condition"]] = values
    return [Model(side, index, values, name) for (side, index, name), values in sorted(found.items())]


def turned(metric: str) -> int:
    """1 where a higher value means that more is known, -1 where it means that more is forgotten."""
    return -1 if direction_of(_registered(metric), "forget") == "higher" else 1


def _registered(metric: str) -> str:
    """A mean score of an attack is higher for what was trained on, and has no direction of its own."""
    return metric.removeprefix("reworded_")


def summarise(models: Sequence[Model]) -> dict[str, Any]:
    """Per metric and condition the AUC with its interval, the mean of either side, and the shift from "as trained"."""
    names = sorted({name for model in models for values in model.values.values() for name in values})
    unlearned = [model for model in models if model.side == UNLEARNED]
    metrics: dict[str, Any] = {}
    for name in names:
        entry = {condition: _told(models, name, condition) for condition in CONDITIONS}
        entry = {condition: found for condition, found in entry.items() if found is not None}
        if TRAINED not in entry:
            continue
        for condition in (ROUNDED, RELEARNED):
            if condition in entry and (found := _shift(models, name, condition)) is not None:
                entry[condition]["shift"] = found
        metrics[name] = {"known_is": "higher" if turned(name) > 0 else "lower", **entry}
        if unlearned:
            metrics[name]["robustness"] = _robustness(models, unlearned, name, entry[TRAINED]["auc"])
    return {
        "models": {side: len([model for model in models if model.side == side]) for side in (WITH, WITHOUT, UNLEARNED)},
        "metrics": metrics,
        "not_measured": sorted(set(names) - set(metrics)),
    }


def _told(models: Sequence[Model], metric: str, condition: str) -> dict[str, Any] | None:
    """None unless either side has a value."""
    values = {
        side: [model.value(condition, metric) for model in models if model.side == side] for side in (WITH, WITHOUT)
    }
    known = {side: [value for value in found if value is not None] for side, found in values.items()}
    if not all(known.values()):
        return None
    sign = turned(metric)
    value = auc([sign * value for value in known[WITH]], [sign * value for value in known[WITHOUT]])
    low, high = _interval(models, metric, (condition,), value)
    entry: dict[str, Any] = {"auc": _short(value), "low": low, "high": high}
    for side in (WITH, WITHOUT):
        entry[side] = _short(statistics.mean(known[side]))
        entry[f"{side}_range"] = [_short(min(known[side])), _short(max(known[side]))]
    entry["n"] = [len(known[WITH]), len(known[WITHOUT])]
    if missing := sum(len(found) for found in values.values()) - sum(entry["n"]):
        entry["unscored"] = missing
    return entry


def _shift(models: Sequence[Model], metric: str, condition: str) -> dict[str, float | None] | None:
    """AUC under the condition less AUC as trained, of the models that have both values."""
    rows = _table(models, metric, (TRAINED, condition))
    if not rows or len({side for _, side, *_ in rows}) < 2:
        return None
    columns = np.array([row[1:] for row in rows], dtype=np.float64)
    value = float(_difference(columns, np.ones((1, len(columns))))[0])
    low, high = _interval(models, metric, (TRAINED, condition), value)
    return {"value": _short(value), "low": low, "high": high}


def _table(models: Sequence[Model], metric: str, conditions: Sequence[str]) -> list[tuple[float, ...]]:
    """(number, 1 with or 0 without, the turned value under each condition) of the models that have all the values."""
    sign = turned(metric)
    rows = []
    for model in models:
        values = [model.value(condition, metric) for condition in conditions]
        if model.side in (WITH, WITHOUT) and None not in values:
            rows.append((model.index, float(model.side == WITH), *(sign * (value or 0.0) for value in values)))
    return rows


def _interval(
    models: Sequence[Model], metric: str, conditions: Sequence[str], value: float
) -> tuple[float | None, float | None]:
    """None with fewer than two numbers: there is nothing to draw from."""
    rows = _table(models, metric, conditions)
    numbers = [row[0] for row in rows]
    if len(set(numbers)) < 2:
        return None, None
    columns = np.array([row[1:] for row in rows], dtype=np.float64)
    statistic = _difference if len(conditions) > 1 else _auc_of_first
    low, high = bootstrap(columns, statistic, clusters=numbers, resamples=RESAMPLES)
    return _short(min(low, value)), _short(max(high, value))


def _auc_of_first(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weighted_auc(columns[:, 0] > 0, columns[:, 1], weights)


def _difference(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    saw = columns[:, 0] > 0
    return weighted_auc(saw, columns[:, 2], weights) - weighted_auc(saw, columns[:, 1], weights)


def weighted_auc(saw: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(resamples,) AUCs of models drawn as often as `weights` (resamples, models) says.

    0.5 where a side is not drawn at all.
    """
    one, other = values[saw][:, None], values[~saw][None]
    wins = (one > other) + 0.5 * (one == other)
    with_, without = weights[:, saw], weights[:, ~saw]
    pairs = with_.sum(1) * without.sum(1)
    won = ((with_ @ wins) * without).sum(1)
    return np.where(pairs > 0, won / np.maximum(pairs, 1), 0.5)


def _robustness(models: Sequence[Model], unlearned: Sequence[Model], metric: str, faith: float) -> dict[str, Any]:
    """R and Q, their harmonic mean, and that with the AUC; means over the unlearned models that could be measured."""
    known = [value for model in models for values in model.values.values() if (value := values.get(metric)) is not None]
    if not all(0 <= value <= 1 for value in known):
        return {"not_measured": "ratios are of values from 0 to 1"}
    never = [found for model in models if model.side == WITHOUT and (found := _risen(model, metric)) is not None]
    risen = [found for model in unlearned if (found := _risen(model, metric)) is not None]
    kept = [found for model in unlearned if (found := _rounding(model, metric)) is not None]
    if not (never and risen and kept):
        return {"not_measured": "a condition is missing"}
    relearning = statistics.mean(relearning_ratio(statistics.mean(never), own) for own in risen)
    rounding = statistics.mean(kept)
    both = _harmonic(relearning, rounding)
    return {
        "relearning": _short(relearning),
        "rounding": _short(rounding),
        "robustness": _short(both),
        "overall": _short(_harmonic(both, faith)),
        "unlearned": len(risen),
    }


def _known(model: Model, condition: str, metric: str) -> float | None:
    """From 0, nothing known, to 1."""
    value = model.value(condition, metric)
    return None if value is None else 1 - value if turned(metric) < 0 else value


def _risen(model: Model, metric: str) -> float | None:
    before, after = (_known(model, condition, metric) for condition in (TRAINED, RELEARNED))
    return None if before is None or after is None else after - before


def _rounding(model: Model, metric: str) -> float | None:
    before, after = (_known(model, condition, metric) for condition in (TRAINED, ROUNDED))
    return None if before is None or after is None else rounding_ratio(before, after)


def relearning_ratio(never: float, unlearned: float) -> float:
    """R: 1 where the unlearned model gains no more than one that never knew; 0 where only the unlearned one gains."""
    return 1.0 if unlearned <= 0 else min(max(never, 0.0) / unlearned, 1.0)


def rounding_ratio(before: float, after: float) -> float:
    """Q: 1 where rounding brings nothing back."""
    return 1.0 if after <= before else before / after


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other > 0 else 0.0


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def titled(metric: str) -> str:
    return TITLES.get(metric, metric.replace("_", " "))


def ordered(summary: Mapping[str, Any]) -> list[str]:
    """Metrics with a title, the best at telling apart first."""
    found = summary["metrics"]
    return sorted((name for name in TITLES if name in found), key=lambda name: -found[name][TRAINED]["auc"])


def table(summary: Mapping[str, Any]) -> list[str]:
    """Markdown: AUC with its interval as trained, then AUC and the mean of either side under every condition."""
    shown = [name for name in CONDITIONS if any(name in entry for entry in summary["metrics"].values())]
    heads = [DRAWN[name][0] for name in shown]
    lines = ["| metric | " + " | ".join(f"AUC, {head} | with / without" for head in heads) + " |"]
    lines.append("|---|" + "---:|---:|" * len(shown))
    for name in ordered(summary):
        cells = [_cells(summary["metrics"][name].get(condition)) for condition in shown]
        lines.append(f"| {titled(name)} | " + " | ".join(cells) + " |")
    return lines


def _cells(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "– | –"
    interval = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{found['auc']:.2f}{interval} | {found['with']:.3g} / {found['without']:.3g}"


def chart(summary: Mapping[str, Any]) -> str:
    """A line for each metric, on it the AUC under every condition with its interval."""
    import matplotlib
    from matplotlib.figure import Figure

    names = ordered(summary)[::-1]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9.0, 1.2 + 0.3 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        axes.tick_params(length=0)
        axes.axvline(0.5, color=INK["muted"], linewidth=1, linestyle=(0, (2, 3)))
        for step, (condition, (label, ink, marker)) in enumerate(DRAWN.items()):
            found = [(at, summary["metrics"][name].get(condition)) for at, name in enumerate(names)]
            points = [(at + 0.22 - 0.22 * step, entry) for at, entry in found if entry]
            if not points:
                continue
            ys = [y for y, _ in points]
            axes.plot([entry["auc"] for _, entry in points], ys, marker, color=ink, markersize=4.5, label=label)
            drawn = [(y, entry) for y, entry in points if entry["low"] is not None]
            axes.hlines(
                [y for y, _ in drawn],
                [entry["low"] for _, entry in drawn],
                [entry["high"] for _, entry in drawn],
                color=ink,
                alpha=0.5,
                linewidth=1,
            )
        axes.set(
            xlim=(-0.03, 1.03),
            ylim=(-0.6, len(names) - 0.4),
            xlabel="AUC: models that saw the rows above models that did not",
        )
        axes.set_yticks(range(len(names)), [titled(name) for name in names])
        axes.grid(axis="x")
        axes.legend(frameon=False, labelcolor=INK["ink"], loc="lower left", bbox_to_anchor=(0, 1), ncols=len(DRAWN))
    return to_svg(figure, "meta-evaluation", "How well each metric tells models that saw the forget rows from others")
