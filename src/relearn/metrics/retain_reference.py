"""Read the scores of a retain-only run (not trained on the forget set), the baseline of forget quality and PrivLeak.

The source is a run folder, its scores.json, or the TOFU_EVAL.json that OpenUnlearning writes
({"agg_value": x, "value_by_index": {"0": {"score": x}}} under the name of each metric).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from relearn.core.errors import InputError
from relearn.core.files import read_json
from relearn.core.run_dir import SCORES

# Named as in OpenUnlearning's files.
ATTACKS = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_reference")


@dataclass(frozen=True)
class RetainReference:
    """Hold ln of the truth ratio of every forget question, and the AUC of each membership attack by name."""

    name: str
    log_ratios: tuple[float, ...] = ()
    aucs: Mapping[str, float] = field(default_factory=dict)


def load_reference(path: Path | str) -> RetainReference:
    """Load the reference from a run folder, a scores.json or a TOFU_EVAL.json.

    Raises InputError if the file has another format, or neither truth ratios nor membership attacks.
    """
    path = Path(path).expanduser()
    file = path / SCORES if path.is_dir() else path
    content = read_json(file)
    if not isinstance(content, Mapping):
        raise InputError(f"holds a {type(content).__name__}, not scores", where=str(file))
    metrics = _forget_metrics(content)
    log_ratios, aucs = _from_tofu_eval(content) if metrics is None else _from_scores(metrics)
    if not log_ratios and not aucs:
        raise InputError(
            "has neither truth ratios nor membership attacks of a forget set",
            where=str(file),
            way_out="the run folder or scores.json of a retain-only run, or a TOFU_EVAL.json",
        )
    return RetainReference(path.name, log_ratios, aucs)


def _forget_metrics(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the metrics of the forget part in a scores.json, after unlearning if measured; None for other files."""
    for side in ("after", "before"):
        part = _mapping(_mapping(content.get(side)).get("forget"))
        if part:
            return _mapping(part.get("metrics"))
    return None


def _from_scores(metrics: Mapping[str, Any]) -> tuple[tuple[float, ...], dict[str, float]]:
    """Read ln R and AUCs from a scores.json; item values of `truth_ratio_prob` are 1 / (1 + R)."""
    shares = _numbers(_mapping(metrics.get("truth_ratio_prob")).get("per_record"))
    aucs = {name: _mapping(metrics.get(name)).get("value") for name in ATTACKS}
    return tuple(map(_log_ratio, shares)), _measured(aucs)


def _from_tofu_eval(content: Mapping[str, Any]) -> tuple[tuple[float, ...], dict[str, float]]:
    metrics = {name.lower(): _mapping(value) for name, value in content.items()}
    ratios = _numbers(metrics.get("forget_truth_ratio", {}).get("value_by_index"))
    aucs = {name: metrics.get(name, {}).get("agg_value") for name in ATTACKS}
    logs = tuple(math.log(ratio) if ratio > 0 else -math.inf for ratio in ratios if ratio >= 0)
    return logs, _measured(aucs)


def _numbers(values: Any) -> list[float]:
    """List the numbers in {key: x} or {key: {"score": x}}, without missing values."""
    entries = [entry.get("score") if isinstance(entry, Mapping) else entry for entry in _mapping(values).values()]
    return [float(value) for value in entries if _is_number(value)]


def _log_ratio(share: float) -> float:
    if share <= 0:
        return math.inf
    return -math.inf if share >= 1 else math.log1p(-share) - math.log(share)


def _measured(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if _is_number(value)}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
