"""What audits/ of a run folder says, as the report has it: a table of attacks, and a verdict per fact.

What analysis/ of a run folder says, as the report has it: numbers to draw from, and what they come to in words.

Only numbers are read, never a picture: what stands in a foreign folder's SVG files is not carried into the page.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from relearn.audits.scoring import VERDICTS
from relearn.core import files

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
    summary, about = files.read_json(folder / "summary.json"), files.read_json(folder / "about.json")
    facts = files.read_json(folder / "verdicts.json")
    counts = Counter(fact["verdict"] for fact in facts)
    return {
        "control": about["control"],
        "attacks": [
            _attack(files.read_json(folder / f"{name}.json"), row)
            for name, row in summary.items()
            if not reads_inside(row)
        ],
        "beside": [
            line
            for name, row in summary.items()
            if reads_inside(row)
            for line in _beside(files.read_json(folder / f"{name}.json"))
        ],
        "worst": _worst(folder),
        "counts": {name: counts[name] for name in VERDICTS},
        "facts": sorted(facts, key=lambda fact: VERDICTS.index(fact["verdict"])),
        "finding": finding(counts, facts),
        "taken_off": _taken_off(folder, summary),
    }


def reads_inside(row: Mapping[str, Any]) -> bool:
    """Whether an entry of the summary is of an attack that reads the model instead of asking it."""
    return "shown" in row


def _worst(folder: Path) -> dict[str, Any] | None:
    """The worst case over all attacks that count, where this audit measured it."""
    return files.read_json(folder / "worst.json") if (folder / "worst.json").exists() else None


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
        "name": document["name"],
        "title": document["title"],
        "about": document["about"],
        "counts": document["counts"],
        "variants": len(variants),
        "left_out": broken,
        "back": row["back"],
        "change": row["change"],
        **{model: row[model]["stated"] for model in ("before", "after", "control")},
    }


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
    variants = files.read_json(folder / "adapters.json")["variants"]
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


START = "start"
_THRESHOLD = "0.08"
_DRAWN = 2
# Its lines are the two lenses, not models.
_FIT = "lens_fit"


def read_inside(run: Path) -> dict[str, Any] | None:
    """None where the run was not looked into.

    `lines`: by picture and model, a value per layer. `circuits`: those to draw, the first questions of every model.
    `findings`: sentences, each from the numbers beside it.
    """
    folder = run / "analysis"
    lens, patching, adapter, circuits, training = (
        files.read_json(path) if (path := folder / f"{name}.json").exists() else {}
        for name in ("lens", "patching", "adapter", "circuits", "dynamics")
    )
    if not (lens or patching or adapter or circuits):
        return None
    fit = lens.get("fit", {})
    lens = lens.get("models", lens)
    lines = {
        "lens": {name: found["logprob"] for name, found in lens.items()},
        "lens_kl": {name: found["kl_first"] for name, found in lens.items()},
        _FIT: fit.get("held_out_kl", {}),
        "patching": {name: found["share"] for name, found in patching.items()},
        "adapter": {name: found["norm"] for name, found in adapter.get("layers", {}).items()},
    }
    means = {name: found["mean"][_THRESHOLD] for name, found in circuits.get("models", {}).items()}
    inside = {
        "lines": lines,
        "ranks": {name: found["rank"][-1] for name, found in lens.items()},
        "circuit_means": means,
        "seesaw": {name: found["seesaw"] for name, found in training.items() if found["seesaw"]},
        "alignment": {name: found["alignment"] for name, found in training.items() if found["alignment"]},
    }
    return {
        **inside,
        "circuits": _to_draw(circuits),
        "not_measured": circuits.get("not_measured") or "",
        "findings": findings(inside),
    }


def redacted_inside(inside: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The same without the circuits, which hold the tokens of questions, and without the names of runs."""
    if inside is None:
        return None
    of_models = {picture: of for picture, of in inside["lines"].items() if picture != _FIT}
    names = list(dict.fromkeys(name for of in of_models.values() for name in of if name != START))
    new = {START: START, **{name: f"model {number}" for number, name in enumerate(names, start=1)}}

    def renamed(of: Mapping[str, Any]) -> dict[str, Any]:
        return {new[name]: value for name, value in of.items() if name in new}

    kept = {
        "lines": {picture: renamed(of) for picture, of in of_models.items()} | {_FIT: inside["lines"].get(_FIT, {})},
        "ranks": renamed(inside["ranks"]),
        "circuit_means": renamed(inside["circuit_means"]),
        "seesaw": renamed(inside.get("seesaw", {})),
        "alignment": renamed(inside.get("alignment", {})),
    }
    return {**kept, "circuits": [], "not_measured": inside["not_measured"], "findings": findings(kept)}


def findings(inside: Mapping[str, Any]) -> list[str]:
    """A sentence for each measurement and model, and nothing where there is nothing to say."""
    said = _of_fit(inside["lines"].get(_FIT, {}))
    said += _of_lens(inside["lines"]["lens"], inside["ranks"])
    said += [_of_kl(name, values) for name, values in inside["lines"]["lens_kl"].items() if len(values) > 1]
    said += [
        f"{name}: the start model's states at the prompt bring back {_percent(max(values))} of what was lost at most, "
        f"put in at layer {values.index(max(values))}."
        for name, values in inside["lines"]["patching"].items()
        if values
    ]
    said += [
        f"{name}: {_percent(mean['kept_share'])} of the edges of the start model's circuits are still there; "
        f"{mean['lost']:.0f} a question are lost, {mean['gained']:.0f} gained."
        for name, mean in inside["circuit_means"].items()
        if mean.get("kept_share") is not None
    ]
    said += [_of_alignment(name, found) for name, found in inside.get("alignment", {}).items()]
    return said


def _of_alignment(name: str, found: Mapping[str, Any]) -> str:
    at = {when: found[when]["cosine"] for when in ("start", "end")}
    told = {when: "not known" if cosine is None else f"{cosine:.2f}" for when, cosine in at.items()}
    return (
        f"{name}: the gradients of the forget and the retain term have a cosine of {told['start']} at the start of the "
        f"unlearning and of {told['end']} at its end (1: the same step, -1: each undoes the other)."
    )


def abruptness(kl: Sequence[float]) -> float | None:
    """Share of the whole way to the last layer that its largest single step makes: 1 is all at once.

    None where no layer comes nearer than the one before.
    """
    steps = [max(0.0, before - after) for before, after in pairwise(kl)]
    return max(steps) / sum(steps) if sum(steps) > 0 else None


def _of_fit(fit: Mapping[str, Sequence[float]]) -> list[str]:
    if not fit:
        return []
    pairs = [(logit, tuned) for logit, tuned in zip(fit["logit"][:-1], fit["tuned"][:-1], strict=True) if logit > 0]
    share = statistics.median(1 - tuned / logit for logit, tuned in pairs) if pairs else 0.0
    return [
        f"Layers are read through a tuned lens, the same for all models: on text it was not fitted on it takes away "
        f"{_percent(share)} of a layer's KL to the last (median layer)."
    ]


def _of_lens(lens: Mapping[str, Sequence[float]], ranks: Mapping[str, float]) -> list[str]:
    if not lens.get(START):
        return []
    return [
        f"{name}: a token of the true answer has a mean log-probability of {values[-1]:.2f} "
        f"({lens[START][-1]:.2f} before) and a median rank of {ranks[name]:.0f}."
        for name, values in lens.items()
        if name != START and values
    ]


def _of_kl(name: str, values: Sequence[float]) -> str:
    share = abruptness(values)
    if share is None:
        return f"{name}: no layer is nearer to the last than the one before it."
    return (
        f"{name}: the largest single step towards the last layer makes {_percent(share)} of the way "
        f"(median layer: KL {statistics.median(values):.1f})."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _to_draw(circuits: Mapping[str, Any]) -> list[dict[str, Any]]:
    models = circuits.get("models", {})
    drawn = []
    for row, tokens in list(circuits.get("tokens", {}).items())[:_DRAWN]:
        at = {name: _edges(found["questions"][row][_THRESHOLD]) for name, found in models.items()}
        drawn += [
            {
                "model": name,
                "tokens": tokens,
                "layers": circuits["layers"],
                "edges": edges,
                "start": None if name == START else at[START],
            }
            for name, edges in at.items()
        ]
    return drawn


def _edges(found: Mapping[str, Any]) -> list[list[Any]]:
    return [edge[:4] for edge in found["edges"]]
