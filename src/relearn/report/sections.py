"""What audits/ of a run folder says, as the report has it: a table of attacks, and a verdict per fact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relearn.audits.verdicts import VERDICTS
from relearn.core import run_dir

TITLES = {"there": "still there", "hidden": "hidden", "gone": "gone", "never_known": "never known"}


def read_audits(run: Path) -> dict[str, Any] | None:
    """None where the run was not audited.

    `attacks`: one row each, in the order of the summary; `left_out`: variants that broke the model and decide nothing.
    `facts`: every fact with its verdict, those that came back first. `finding` and `taken_off`: what came out, in
    sentences; the latter empty where no adapter was taken off.
    """
    folder = run / "audits"
    if not (folder / "summary.json").exists():
        return None
    summary, about = run_dir.read_json(folder / "summary.json"), run_dir.read_json(folder / "about.json")
    facts = run_dir.read_json(folder / "verdicts.json")
    counts = Counter(fact["verdict"] for fact in facts)
    return {
        "control": about["control"],
        "attacks": [
            _attack(run_dir.read_json(folder / f"{name}.json"), row)
            for name, row in summary.items() if not reads_inside(row)
        ],
        "beside": [line for name, row in summary.items() if reads_inside(row)
                   for line in _beside(run_dir.read_json(folder / f"{name}.json"))],
        "worst": _worst(folder),
        "counts": {name: counts[name] for name in VERDICTS},
        "facts": sorted(facts, key=lambda fact: VERDICTS.index(fact["verdict"])),
        "finding": finding(counts, facts),
        "taken_off": _taken_off(folder, summary),
    }  # fmt: skip


def reads_inside(row: Mapping[str, Any]) -> bool:
    """Whether an entry of the summary is of an attack that reads the model instead of asking it."""
    return "shown" in row


def _worst(folder: Path) -> dict[str, Any] | None:
    """The worst case over all attacks that count, where this audit measured it."""
    return run_dir.read_json(folder / "worst.json") if (folder / "worst.json").exists() else None


# Per-layer numbers fill a file, not a table.
_LAYER = "layer "


def _beside(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each measure of an attack that reads the model, those per layer left to its own file."""
    about = {"title": document["title"], "about": document["about"], "not_measured": document["not_measured"]}
    nothing = {"value": None, "low": None, "high": None}
    rows = [
        {
            **about,
            "measure": name,
            **{
                side: models.get(model, nothing)
                for side, model in (("before", "start"), ("after", "after"), ("control", "control"))
            },
        }
        for name, models in document["measures"].items()
        if not name.startswith(_LAYER)
    ]
    return rows or [{**about, "measure": "", "before": nothing, "after": nothing, "control": nothing}]


def _attack(document: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    variants = document["variants"]
    broken = [name for name, found in variants.items() if document["counts"] and not found["counts"]]
    return {
        "name": document["name"], "title": document["title"], "about": document["about"], "counts": document["counts"],
        "variants": len(variants), "left_out": broken, "back": row["back"], "change": row["change"],
        **{model: row[model]["stated"] for model in ("before", "after", "control")},
    }  # fmt: skip


def finding(counts: Mapping[str, int], facts: Sequence[Mapping[str, Any]] = ()) -> str:
    """The outcome in a sentence or two; with `facts` also which attacks brought back most."""
    known = sum(counts.get(name, 0) for name in VERDICTS) - counts.get("never_known", 0)
    if not known:
        return "The model knew none of these facts to begin with."
    there, hidden = counts.get("there", 0), counts.get("hidden", 0)
    came_back = f"{hidden} came back under attack" if hidden else "none came back under the attacks tried"
    still = f"{there} {'is' if there == 1 else 'are'} still told when plainly asked"
    told = f"Of {known} facts that the model knew, {still}, and {came_back}."
    by = Counter(name for fact in facts if fact["verdict"] == "hidden" for name in fact["by"])
    if by:
        told += " They came back by " + ", ".join(f"{name} ({count})" for name, count in by.most_common(4)) + "."
    return told


def _taken_off(folder: Path, summary: Mapping[str, Any]) -> str:
    """What the adapters attack says, in a sentence: an adapter that can be removed is not deletion."""
    if "adapters" not in summary:
        return ""
    variants = run_dir.read_json(folder / "adapters.json")["variants"]
    told = {name: found["after"] for name, found in variants.items() if found["after"]["value"] is not None}
    if not told:
        return ""
    shares = ", ".join(f"{name}: {round(one['value'] * one['n'])} of {one['n']}" for name, one in told.items())
    return (
        f"The adapter can be taken off again, and is no deletion as long as it can ({shares} facts told). Hand "
        "out the merged model alone: relearn export --merged."
    )


def redacted_audits(audits: Mapping[str, Any] | None, hidden: str) -> dict[str, Any] | None:
    """The same without questions and record ids, and without the control's name."""
    if audits is None:
        return None
    facts: Sequence[Mapping[str, Any]] = audits["facts"]
    kept = [{**fact, "id": f"fact {number}", "question": hidden} for number, fact in enumerate(facts, 1)]
    return {**audits, "control": hidden, "facts": kept}
