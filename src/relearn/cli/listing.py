"""`relearn list`: the tables of methods, metrics, audits, generators and benchmarks."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich.table import Table

from relearn.core import console


def print_listing(what: str, *, as_json: bool) -> None:
    rows = {
        "methods": _methods,
        "metrics": _metrics,
        "audits": _audits,
        "generators": _generators,
        "benchmarks": _benchmarks,
    }[what]()
    if as_json:
        console.out.print_json(json.dumps(rows))
        return
    if what == "methods":
        for row in rows:
            _print_method(row)
        return
    table = Table()
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    console.out.print(table)


def _print_method(row: dict[str, Any]) -> None:
    """A method has too much to say for a table's columns."""
    console.out.print(f"{row['name']}  ({row['family']}; {row['paper']})", style="bold", markup=False, soft_wrap=True)
    for name in ("data", "needs", "defaults"):
        console.out.print(f"    {name}: {_shown(row[name])}", markup=False, soft_wrap=True)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={entry}" for key, entry in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _methods() -> list[dict[str, Any]]:
    from relearn.unlearning.method import METHODS

    return [
        {
            "name": name,
            "family": method.family,
            "paper": method.paper,
            "data": method.data,
            "needs": sorted(method.objective({}).needs),
            "defaults": dict(method.defaults),
        }
        for name, method in ((name, METHODS.get(name)) for name in METHODS)
    ]


def _metrics() -> list[dict[str, Any]]:
    from relearn.metrics.metric import METRICS

    return [
        {"name": name, "better": dict(METRICS.get(name).better), "source": METRICS.get(name).source} for name in METRICS
    ]


def _generators() -> list[dict[str, Any]]:
    from relearn.llm.generators import GENERATORS

    return [{"name": name, "about": GENERATORS.get(name).about} for name in GENERATORS]


def _audits() -> list[dict[str, Any]]:
    from relearn.audits.attack import AUDITS

    found = [AUDITS.get(name) for name in AUDITS]
    return [
        {"name": one.name, "family": one.family, "counts": one.counts, "about": one.description, "source": one.source}
        for one in found
    ]


def _benchmarks() -> list[dict[str, Any]]:
    from relearn.data.loaders import BENCHMARKS

    return [asdict(one) for one in BENCHMARKS]
