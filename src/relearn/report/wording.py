"""What the report calls things: parts, metrics, verdicts, numbers. Screen, page and model card share these words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from relearn.metrics.base import METRICS

# part of summary.json -> (split, answer file, title)
PARTS: dict[str, tuple[str, str, str]] = {
    "forget": ("forget", "forget", "To forget, trained questions"),
    "forget_heldout": ("forget", "probes_forget", "To forget, other questions"),
    "retain": ("retain", "retain", "To keep, trained questions"),
    "retain_heldout": ("retain", "probes_retain", "To keep, other questions"),
}
SPLITS = {"forget": "What was to be forgotten", "retain": "What was to be kept"}

# In the order of the tables; a metric that is not named here follows by name.
ABOUT: dict[str, str] = {
    "kfr": "share of answers that do not give the reference away",
    "krr": "share of answers that still give the reference",
    "rouge_l": "share of the reference's words found in the answer, in order",
    "ls": "fluency of each answer; at most 0.6",
    "ls_median": "the same, the middle answer",
    "ls_paper": "fluency from means over the set, as the paper computes it",
    "gibberish": "share of empty or looping answers, which KFR would count as forgotten",
    "ppl": "how surprising the answers are to the base model",
    "bi": "vocabulary; lower is richer",
    "hs": "words used once; higher is richer",
}
ON_UNIT_SCALE = ("kfr", "krr", "rouge_l", "ls", "gibberish")
LOSS_PARTS = {
    "gdf": "new answers (GDF)",
    "gdr": "rows to keep (GDR)",
    "klr": "KL to the start model on rows to keep (KLR)",
}
ROW_KINDS = {
    "qa": "a question and its new answer",
    "completion": "the beginning of a new answer and its rest",
    "generic": "a general question and its answer",
}
VERDICTS: dict[str, str] = {
    "known": "still known",
    "lost": "lost",
    "forgotten": "forgotten",
    "kept": "kept",
    "never": "not known before",
    "unscored": "not judged",
}
MISSING = "–"


def in_order(names: Iterable[str]) -> list[str]:
    rank = {name: index for index, name in enumerate(ABOUT)}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))


def metric_title(name: str) -> str:
    return METRICS.get(name).title if name in METRICS else name


def metric_label(name: str) -> str:
    """The short name for tables and charts: KFR, ROUGE-L, LS."""
    known = {"rouge_l": "ROUGE-L", "ls_median": "LS median", "ls_paper": "LS (paper)", "gibberish": "Gibberish"}
    return known.get(name, name.upper())


def better(name: str, split: str) -> str | None:
    """ "higher" or "lower", where that is known for the metric on this split."""
    return dict(METRICS.get(name).better).get(split) if name in METRICS else None  # pyright: ignore


def number(value: float | None) -> str:
    """Three decimals below ten, fewer above, an exponent from a million on: 0.953, 12.3, 1,744."""
    if value is None:
        return MISSING
    size = abs(value)
    if size >= 1e6:
        return f"{value:.2e}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share in whole percent; 0 % and 100 % are said only of none and of all."""
    if value is None:
        return MISSING
    whole = f"{100 * value:.0f}"
    exact = {0.0: "0", 1.0: "100"}.get(value)
    return f"{100 * value:.1f} %" if exact is None and whole in ("0", "100") else f"{whole} %"


def interval(measured: Mapping[str, Any] | None) -> str:
    if not measured or measured.get("low") is None or measured.get("high") is None:
        return ""
    return f"{number(measured['low'])} to {number(measured['high'])}"


def change(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, direction: str | None) -> str:
    """ "better", "worse" or "same"; "same" also where the intervals overlap, "" where it cannot be told."""
    if not before or not after or before.get("value") is None or after.get("value") is None or direction is None:
        return ""
    if _overlap(before, after):
        return "same"
    return "better" if (after["value"] > before["value"]) == (direction == "higher") else "worse"


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    bounds = [(m["value"] if m.get(k) is None else m[k]) for m in (one, other) for k in ("low", "high")]
    return bounds[0] <= bounds[3] and bounds[2] <= bounds[1]


def counted(number_of: int, thing: str) -> str:
    return f"{number_of:,} {thing}{'' if number_of == 1 else 's'}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"
