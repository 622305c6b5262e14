"""Every method of a comparison against the first one of its table: the differences on the same questions.

Kept in differences.jsonl beside the results, since a result alone has no values of single answers: they are worked out
where both runs are at hand, and stay in the table when one of the two is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from relearn.compare.tables import COLUMNS
from relearn.core.config import Recipe
from relearn.core.run_dir import RunDir, read_json, read_jsonl
from relearn.metrics.measurement import Measurement
from relearn.metrics.paired import difference
from relearn.report.labels import PARTS

FILE = "differences.jsonl"
METRICS = tuple(dict.fromkeys(name for _, name, _ in COLUMNS))


def updated(
    kept: Iterable[Mapping[str, Any]], methods: Sequence[str], runs: Mapping[str, RunDir]
) -> list[dict[str, Any]]:
    """The rows of differences.jsonl: those `kept` of these methods, worked out anew for runs that are here.

    A row: {"method", "against": the first of `methods`, "parts": part of summary.json -> metric -> difference}.
    """
    found = {row["method"]: dict(row) for row in kept}
    first = methods[0]
    for method in methods[1:] if first in runs else ():
        if method in runs:
            found[method] = {"method": method, "against": first, "parts": _between(runs[first], runs[method])}
    return [found[method] for method in sorted(found) if method in methods]


def _between(first: RunDir, other: RunDir) -> dict[str, Any]:
    """A comparison works the same tables out after every method; the files of a finished run do not change."""
    files = [run / "scores.json" for run in (first, other)]
    return _worked_out(first.path, other.path, *(file.stat().st_mtime_ns for file in files))


@lru_cache(maxsize=256)
def _worked_out(first: Path, other: Path, *written: int) -> dict[str, Any]:
    scores = [read_json(run / "scores.json")["after"] for run in (first, other)]
    recipe = Recipe.from_yaml(first / "recipe.yaml")
    found = {}
    for part, (split, file, _) in PARTS.items():
        if not all(part in side for side in scores):
            continue
        subjects = {row["id"]: row.get("subject") for row in read_jsonl(first / f"after/{file}.jsonl")}
        old, new = (side[part]["metrics"] for side in scores)
        of_part = {
            name: difference(
                name, split, _measurement(old[name]), _measurement(new[name]), subjects, recipe.metrics, recipe.seed
            )
            for name in METRICS
            if name in old and name in new
        }
        found[part] = {name: value.to_dict() for name, value in of_part.items() if value is not None}
    return found


def _measurement(kept: Mapping[str, Any]) -> Measurement:
    return Measurement(kept["value"], n=kept["n"], unscored=kept["unscored"], per_record=kept["per_record"])


def of_table(rows: Iterable[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """method -> part -> metric -> difference of the methods in a table that are against its first one, in its order."""
    found = {row["method"]: row["parts"] for row in rows if row["against"] == methods[0]}
    return {method: found[method] for method in methods[1:] if method in found}
