"""Read run folders for the page: facts with their verdicts, a table of metrics, and the names of the models.

No model is loaded. A run folder may come from another person: see `RunFolder.recipe_to_load`.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from relearn.audits.scoring import VERDICTS
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.files import file_hash, read_json
from relearn.core.run_dir import SIDES, SUMMARY, RunFolder
from relearn.inference.run_models import dated
from relearn.metrics.answer_row import asked_first
from relearn.metrics.metric import direction_of
from relearn.models.builtin import find_builtin, is_builtin
from relearn.report.labels import (
    PARTS,
    change,
    in_order,
    in_summary,
    interval,
    metric_description,
    metric_label,
    number,
    part_title,
)
from relearn.report.sections import TITLES, finding

# Maximum number of facts on the page, because more make it slow; the run folder contains all.
MAX_FACTS = 1000
NOT_AUDITED = "not_audited"
WORDS = {**TITLES, NOT_AUDITED: "not audited"}


@dataclass(frozen=True)
class Fact:
    """Store a forget record with its answers before and after unlearning (None where not asked) and its verdict.

    `recovered_by`: attacks that recover the fact and decide its verdict. `also_recovered_by`: those that do not count.
    """

    id: str
    question: str
    form: str
    reference: str
    before: str | None
    after: str | None
    verdict: str
    recovered_by: tuple[str, ...] = ()
    also_recovered_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class FactTable:
    """Store the facts `shown` on the page, in the order of verdicts, and the `counts` of all facts by verdict.

    `audited`: the run has been audited; `finding`: the result of the audit in words.
    """

    shown: Sequence[Fact]
    counts: Mapping[str, int]
    audited: bool
    finding: str

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def left_out(self) -> int:
        return self.total - len(self.shown)


def read_facts(folder: Path) -> FactTable:
    """Read the facts of a run folder; the table is empty where there are no answers.

    Raises KeyError, TypeError or ValueError for files in another format.
    """
    run = RunFolder(folder)
    sides = {side: _answers(run.answers(side, "forget")) for side in SIDES}
    judged = _verdicts(run)
    rows = {**sides["after"], **sides["before"]}
    facts = [_fact(key, row, sides, judged.get(key)) for key, row in rows.items()]
    ranks = {name: rank for rank, name in enumerate((*VERDICTS, NOT_AUDITED))}
    facts.sort(key=lambda fact: ranks[fact.verdict])
    counts = Counter(fact.verdict for fact in facts)
    text = finding(counts, [{"verdict": fact.verdict, "by": fact.recovered_by} for fact in facts]) if judged else ""
    return FactTable(facts[:MAX_FACTS], {name: counts[name] for name in ranks if counts[name]}, bool(judged), text)


def _answers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {str(row["id"]): row for row in asked_first(rows)}


def _verdicts(run: RunFolder) -> dict[str, Mapping[str, Any]]:
    verdicts: dict[str, Mapping[str, Any]] = {str(row["id"]): row for row in run.verdicts}
    if unknown := {str(row["verdict"]) for row in verdicts.values()} - set(VERDICTS):
        raise ValueError(f"no verdicts: {unknown}")
    return verdicts


def _fact(
    key: str, row: Mapping[str, Any], sides: Mapping[str, Mapping[str, Any]], judged: Mapping[str, Any] | None
) -> Fact:
    before, after = (str(sides[side][key]["response"]) if key in sides[side] else None for side in SIDES)
    verdict, by, beside = NOT_AUDITED, (), ()
    if judged is not None:
        verdict = judged["verdict"]
        by, beside = (tuple(map(str, judged.get(name) or ())) for name in ("by", "beside"))
    form = "text" if row.get("form") == "text" else "chat"
    return Fact(key, str(row["question"]), form, str(row["reference"]), before, after, verdict, by, beside)


_ARROWS = {"higher": "↑", "lower": "↓"}
_NUMBERS = ("value", "low", "high", "n", "unscored")
_SIDES = ("before", "after", "difference")


def check_summary(summary: Any) -> Mapping[str, Any]:
    """Check the content of summary.json and return it.

    Raises TypeError or AttributeError where an entry is not a measurement.
    """
    for side in _SIDES:
        for measured in (summary.get(side) or {}).values():
            for entry in (measured or {}).values():
                if any(not isinstance(entry.get(name), int | float | None) for name in _NUMBERS):
                    raise TypeError("not a measurement")
    return summary


def table(summaries: Sequence[Mapping[str, Any]], trained: bool = True) -> list[dict[str, Any]]:
    """Make the tables of metrics, one per split in summary.json: a title, and a row per metric with a cell per run."""
    parts = []
    for part, (split, _, _) in PARTS.items():
        sides = [[(summary.get(side) or {}).get(part) or {} for side in _SIDES] for summary in summaries]
        names = in_order({name for before, after, _ in sides for name in (*before, *after) if in_summary(name)})
        rows = [
            {
                "label": metric_label(name),
                "about": metric_description(name),
                "arrow": _ARROWS.get(direction_of(name, split) or "", ""),
                "cells": [_cell(name, split, *(side.get(name) for side in of_run)) for of_run in sides],
            }
            for name in names
        ]
        if rows:
            parts.append({"title": part_title(part, trained), "rows": rows})
    return parts


def _cell(
    name: str,
    split: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    difference: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Format the texts of a table cell; a missing value is shown as "not measured", never as a number."""
    unscored = (after or {}).get("unscored")
    return {
        "before": _value(before),
        "after": _value(after),
        "interval": interval(after),
        "change": change(before, after, direction_of(name, split), difference),
        "unscored": f"{unscored} not judged" if unscored else "",
        "measured": "" if after and after.get("value") is not None else "not measured",
    }


def _value(measured: Mapping[str, Any] | None) -> str:
    """Format a measured value; return "" where it was not measured."""
    return "" if not measured or measured.get("value") is None else number(measured["value"])


# Folders of the result of unlearning; each procedure writes one of them.
RESULTS = ("adapter", "model", "offset", "eco")
Content = TypeVar("Content")


@dataclass(frozen=True)
class OpenedRun:
    """Store the content of a run folder. `name` is unique among the opened runs.

    `recipe` and `result` (name of the folder with the result of unlearning) are None where the models of the run cannot
    be loaded; `unavailable` is then the reason. `trained`: False for the folder of `relearn evaluate`.
    """

    name: str
    path: Path
    recipe: Recipe | None
    result: str | None
    unavailable: str
    trained: bool
    facts: FactTable
    summary: Mapping[str, Any]

    @property
    def audit_command(self) -> str:
        return f"relearn audit {shlex.quote(str(self.path))}"

    @property
    def start(self) -> tuple[str, str] | None:
        """Return a key of the start model, equal for runs with the same start model; None without a recipe."""
        if self.recipe is None:
            return None
        learned = self.path / "start" / "adapter_model.safetensors"
        digest = file_hash(learned) if self.recipe.learn and learned.exists() else ""
        return dated(self.recipe.model, self.path).model_dump_json(), digest


def open_runs(folders: Sequence[Path], *, trust_remote_code: bool = False) -> list[OpenedRun]:
    """Read run folders for the page. `trust_remote_code`: run code from the repositories of the models.

    Raises InputError for a folder that is given twice, is not a finished run, needs code that is not trusted, or cannot
    be read.
    """
    if not folders:
        raise InputError("no run given", way_out="relearn ui runs/demo")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("a run is named twice", where=", ".join(map(str, folders)))
    opened: list[OpenedRun] = []
    for folder in folders:
        name = _unique(folder.resolve().name, [run.name for run in opened])
        opened.append(_open(folder, name, trust_remote_code))
    return opened


def _open(folder: Path, name: str, trust_remote_code: bool) -> OpenedRun:
    run = RunFolder.existing(folder)
    evaluated = run.is_evaluation
    recipe, result, unavailable = None, None, ""
    if run.has_recipe:
        recipe, result = run.recipe_to_load(trust_remote_code=trust_remote_code), _result(folder)
    elif evaluated:
        unavailable = "An evaluation has no run of its own, so there is no model here to ask."
    else:
        unavailable = "This run was purged: its texts and its recipe are gone, its numbers stay. It cannot be asked."
    summary = _readable(folder / SUMMARY, lambda: check_summary(run.summary))
    facts = _readable(folder, lambda: read_facts(folder))
    return OpenedRun(name, folder, recipe, result, unavailable, not evaluated, facts, summary)


def _result(folder: Path) -> str:
    return RunFolder(folder).require_result(*RESULTS)


def _readable(where: Path, read: Callable[[], Content]) -> Content:
    """Call `read` and return its result. Raises InputError for a file in another format."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise InputError(f"is not what relearn writes ({type(error).__name__})", where=str(where)) from None


def _unique(name: str, taken: Sequence[str]) -> str:
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name} {number}", number + 1
    return unique


HUB = "https://huggingface.co"
# Result folder -> file with the name of a second model, and the key of the name.
_SECOND = {"offset": ("offset.json", "small"), "eco": ("eco.json", "encoder")}
_PARTS = {
    "adapter": "the adapter made by unlearning",
    "model": "the weights made by unlearning",
    "offset": "the small model's adapter made by unlearning",
    "eco": "the classifier made by unlearning",
}


@dataclass(frozen=True)
class NamedModel:
    """Describe a model that the page can load.

    `own`: it is a built-in model. `source`: where it is loaded from. `runs`: runs that use it. `parts`: adapters and
    other results that are applied to it.
    """

    name: str
    own: bool
    source: str
    runs: tuple[str, ...]
    parts: tuple[str, ...]


def named_models(runs: Sequence[OpenedRun]) -> list[NamedModel]:
    """List the models that the runs use, each once, in the order of the runs."""
    models: dict[str, NamedModel] = {}
    for run in runs:
        for name, parts in _models_of(run):
            earlier = models.get(name)
            earlier_runs, earlier_parts = (earlier.runs, earlier.parts) if earlier else ((), ())
            models[name] = NamedModel(
                name,
                is_builtin(name),
                _source(name, run),
                tuple(dict.fromkeys([*earlier_runs, run.name])),
                tuple(dict.fromkeys([*earlier_parts, *parts])),
            )
    return list(models.values())


def _models_of(run: OpenedRun) -> list[tuple[str, list[str]]]:
    if run.recipe is None or run.result is None:
        return []
    parts = [f"the adapter {name}" for name in run.recipe.model.adapters]
    if run.recipe.learn:
        parts.append(f"the adapter that {run.name} learned first")
    parts.append(f"{_PARTS[run.result]}, in {run.name}")
    models = [(run.recipe.model.name, parts)]
    if run.result in _SECOND:
        models.append((_second(run.path / run.result, *_SECOND[run.result]), []))
    return models


def _second(folder: Path, file: str, key: str) -> str:
    values = read_json(folder / file)
    if not isinstance(values, dict) or not isinstance(values.get(key), str):
        raise InputError(f"names no {key!r}", where=str(folder / file))
    return values[key]


def _source(name: str, run: OpenedRun) -> str:
    builtin = find_builtin(name)
    if builtin is not None and is_builtin(name):
        return f"built in, from the package {builtin.package}, checked against its pinned sha256"
    if Path(name).expanduser().is_dir():
        return "a folder on this machine"
    hub = os.environ.get("HF_ENDPOINT") or HUB
    revision = run.recipe.model.revision if run.recipe and run.recipe.model.name == name else None
    return f"{hub}{f', revision {revision}' if revision else ''}; downloaded unless it is in the cache already"
