"""Print the available methods, metrics, audits, generators and benchmarks for `relearn list`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.table import Table

from relearn.core import console, plugins
from relearn.core.registry import Registry


def print_listing(kind: str, *, as_json: bool) -> None:
    """Print the entries of one kind as JSON or as a table; methods as paragraphs, because their fields are long."""
    tables = {
        "methods": _methods,
        "metrics": _metrics,
        "audits": _audits,
        "generators": _generators,
        "benchmarks": _benchmarks,
    }
    rows = tables[kind]()
    if as_json:
        console.out.print_json(json.dumps(rows))
    elif kind == "methods":
        for row in rows:
            _print_method(row)
    else:
        _print_table(rows)


def _print_table(rows: list[dict[str, Any]]) -> None:
    table = Table()
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_to_text(value) for value in row.values()))
    console.out.print(table)


def _print_method(row: dict[str, Any]) -> None:
    console.out.print(f"{row['name']}  ({row['family']}; {row['paper']})", style="bold", markup=False, soft_wrap=True)
    for name in ("data", "needs", "defaults", "origin"):
        if name in row:
            console.out.print(f"    {name}: {_to_text(row[name])}", markup=False, soft_wrap=True)


def _to_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={entry}" for key, entry in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _rows(registry: Registry[Any], fields: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """Make a row of each entry of a registry; where a plug-in added an entry, all rows have their `origin`."""
    origins = {name: plugins.origin(registry.kind, name) for name in registry}
    rows = [{"name": name, **fields(registry.get(name))} for name in registry]
    if any(origins.values()):
        rows = [{**row, "origin": origins[row["name"]] or "relearn"} for row in rows]
    return rows


def _methods() -> list[dict[str, Any]]:
    from relearn.unlearning.method import METHODS

    return _rows(
        METHODS,
        lambda method: {
            "family": method.family,
            "paper": method.paper,
            "data": method.data,
            "needs": sorted(method.objective({}).needs),
            "defaults": dict(method.defaults),
        },
    )


def _metrics() -> list[dict[str, Any]]:
    from relearn.metrics.metric import METRICS

    return _rows(METRICS, lambda metric: {"better": dict(metric.better), "source": metric.source})


def _generators() -> list[dict[str, Any]]:
    from relearn.llm.generators import GENERATORS

    return _rows(GENERATORS, lambda generator: {"about": generator.about})


def _audits() -> list[dict[str, Any]]:
    from relearn.audits.attack import AUDITS

    return _rows(
        AUDITS,
        lambda audit: {
            "family": audit.family,
            "counts": audit.counts,
            "about": audit.description,
            "source": audit.source,
        },
    )


def _benchmarks() -> list[dict[str, Any]]:
    from relearn.data.loaders import BENCHMARKS

    return [asdict(one) for one in BENCHMARKS]
