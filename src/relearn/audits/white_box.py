"""What a model holds inside, read off by whoever has its weights: numbers per fact, shown beside the verdicts.

A vague answer over an unchanged memory shows here. None of these decides a verdict: a model that never saw the facts
ranks names and numbers as well, so each number is read against the control's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relearn.audits.attack import Audit, Gathering, Row
from relearn.inference.run_models import MODELS, ModelName
from relearn.metrics.metric import Measurement

WHY = {"kept": "no retain set", "subjects": "fewer than two facts that can be told apart"}


def row(record_id: str, measure: str, value: float | None) -> Row:
    """One number about one fact."""
    return {"key": f"{record_id}/{measure}", "id": record_id, "measure": measure, "value": value}


def gathered(audit: Audit, rows: Sequence[Row], gathering: Gathering) -> dict[str, Measurement]:
    """Every measure of an attack on one model."""
    if audit.gather is not None:
        return dict(audit.gather(rows, gathering))
    values: dict[str, dict[str, float | None]] = {}
    for one in rows:
        values.setdefault(one["measure"], {})[one["id"]] = one["value"]
    return {name: gathering.mean(found) for name, found in values.items()}


def document(audit: Audit, rows: Mapping[ModelName, Sequence[Row]], gathering: Gathering) -> dict[str, Any]:
    """What audits/NAME.json says: per measure, each model's number with its interval."""
    found = {model: gathered(audit, rows[model], gathering) for model in MODELS if rows.get(model)}
    names = dict.fromkeys(name for measures in found.values() for name in measures)
    return {
        "name": audit.name,
        "title": audit.title,
        "family": audit.family,
        "source": audit.source,
        "about": audit.about,
        "counts": False,
        "shown": audit.shown,
        "not_measured": missing(audit, found),
        "measures": {
            name: {model: found[model][name].to_dict() for model in found if name in found[model]} for name in names
        },
    }


def missing(audit: Audit, found: Mapping[Any, Mapping[str, Measurement]]) -> str:
    """Why there are no numbers, in a few words; empty where there are."""
    if any(found.values()):
        return ""
    return next((WHY[need] for need in audit.needs), "nothing to read")


def summary(made: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of audits/summary.json: every measure before and after unlearning and of the control."""
    sides: dict[str, ModelName] = {"before": "start", "after": "after", "control": "control"}
    return {
        side: {name: models[model] for name, models in made["measures"].items() if model in models}
        for side, model in sides.items()
    } | {"shown": made["shown"], "family": made["family"], "not_measured": made["not_measured"]}
