"""Read audits/ and analysis/ of a run folder for the report: attacks, verdicts, values per layer, and findings.

Only JSON files are read, never SVG files, so that an untrusted folder cannot put its SVG into the page.
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

_MODEL_OF_SIDE = {"before": "start", "after": "after", "control": "control"}
TITLES = {"there": "still there", "hidden": "hidden", "gone": "gone", "never_known": "never known"}
_KNOWN_VERDICTS = {name: TITLES[name] for name in ("gone", "hidden", "there")}


def read_audits(run: Path) -> dict[str, Any] | None:
    """Read the audits of a run; None if it was not audited.

    `attacks`: one row per attack that asks prompts, in the order of the summary; `left_out` lists the variants that
    broke the model. `beside`: rows of attacks of family "access", and leak@k of attacks that sample. `facts`: every
    fact with its verdict, in the order of VERDICTS. `finding`: the outcome in sentences. `taken_off`: the result of
    removing the adapter; "" if not tried. `ignorance`: the sorted p-values of the attack "ignorance" by side, and its
    outcome in a sentence.
    """
    folder = run / "audits"
    if not (folder / "summary.json").exists():
        return None
    summary, about = files.read_json(folder / "summary.json"), files.read_json(folder / "about.json")
    facts = files.read_json(folder / "verdicts.json")
    counts = Counter(fact["verdict"] for fact in facts)
    return {
        "control": about["control"],
        "strength": about.get("strength", ""),
        "attacks": [
            _attack(files.read_json(folder / f"{name}.json"), row)
            for name, row in summary.items()
            if not reads_model(row)
        ],
        "beside": [
            line
            for name, row in summary.items()
            if reads_model(row) or "leak_at" in row
            for line in _beside(files.read_json(folder / f"{name}.json"))
        ],
        "worst": _worst(folder),
        "counts": {name: counts[name] for name in VERDICTS},
        "facts": sorted(facts, key=lambda fact: VERDICTS.index(fact["verdict"])),
        "finding": finding(counts, facts, about.get("strength", "")),
        "taken_off": _taken_off(folder, summary),
        "ignorance": _ignorance(folder, summary["ignorance"]) if "ignorance" in summary else None,
    }


def reads_model(row: Mapping[str, Any]) -> bool:
    """Return whether an entry of the summary belongs to an attack of family "access", which asks no prompts."""
    return "shown" in row


def _worst(folder: Path) -> dict[str, Any] | None:
    """Read the worst case over all attacks that count; None if the audit has no worst.json."""
    return files.read_json(folder / "worst.json") if (folder / "worst.json").exists() else None


def _ignorance(folder: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    rows = {
        side: files.read_jsonl(path) if (path := folder / "answers" / f"ignorance.{model}.jsonl").exists() else []
        for side, model in _MODEL_OF_SIDE.items()
    }
    p_values = {
        side: sorted(row["value"] for row in own if row["measure"] == "p" and row["value"] is not None)
        for side, own in rows.items()
    }
    return {
        "p_values": {side: own for side, own in p_values.items() if own},
        "finding": ignorance_finding(row["after"]),
    }


def ignorance_finding(measures: Mapping[str, Any]) -> str:
    """Describe in a sentence how many facts of the unlearned model are told from ignorance; "" if not measured.

    `measures`: name of a measure of the attack "ignorance" -> its measurement of the unlearned model.
    """
    told, likely, unlikely = (measures.get(name) for name in ("told from ignorance", "too likely", "too unlikely"))
    if not told or not likely or not unlikely or told["value"] is None:
        return ""
    count, known, trace = (round(one["value"] * told["n"]) for one in (told, likely, unlikely))
    return (
        f"After unlearning {count} of {told['n']} facts can be told from ignorance: {known} too likely, {trace} too "
        "unlikely. The others are not distinguishable from ignorance on these tests."
    )


# Prefix of measures per layer, which are too many for a table.
_LAYER = "layer "


def _beside(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make one row for each measure, or each leak@k, of an attack, except measures per layer."""
    about = {name: document.get(name, "") for name in ("title", "about", "not_measured")}
    nothing = {"value": None, "low": None, "high": None}
    rows = [
        {**about, "measure": name, **{side: models.get(model, nothing) for side, model in _MODEL_OF_SIDE.items()}}
        for name, models in (document.get("measures") or document.get("leak_at", {})).items()
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


def finding(counts: Mapping[str, int], facts: Sequence[Mapping[str, Any]] = (), strength: str = "") -> str:
    """Describe the number of facts by verdict in sentences.

    With `facts`, also the attacks that brought back most; with `strength`, how hard was tried.
    """
    known = sum(counts.get(name, 0) for name in VERDICTS) - counts.get("never_known", 0)
    if not known:
        return "The model knew none of these facts to begin with."
    named = ", ".join(f"{counts.get(name, 0)} {title}" for name, title in _KNOWN_VERDICTS.items())
    tried = f" (audit strength: {strength})" if strength else ""
    sentence = f"Of {known} facts that the model knew: {named}{tried}."
    by = Counter(name for fact in facts if fact["verdict"] == "hidden" for name in fact["by"])
    if by:
        attacks = ", ".join(f"{name} ({count})" for name, count in by.most_common(4))
        sentence += f" Attacks that brought the hidden facts back: {attacks}."
    return sentence


def _taken_off(folder: Path, summary: Mapping[str, Any]) -> str:
    """Describe the result of the "adapters" attack; "" if it was not run. A removable adapter deletes nothing."""
    if "adapters" not in summary:
        return ""
    variants = files.read_json(folder / "adapters.json")["variants"]
    measured = {name: variant["after"] for name, variant in variants.items() if variant["after"]["value"] is not None}
    if not measured:
        return ""
    shares = ", ".join(f"{name}: {round(one['value'] * one['n'])} of {one['n']}" for name, one in measured.items())
    return (
        f"The adapter can be taken off again, and is no deletion as long as it can ({shares} facts told). Hand "
        "out the merged model alone: relearn export --merged."
    )


def redacted_audits(audits: Mapping[str, Any] | None, hidden: str) -> dict[str, Any] | None:
    """Copy the audits without questions, record ids and the name of the control model."""
    if audits is None:
        return None
    facts = [{**fact, "id": f"fact {number}", "question": hidden} for number, fact in enumerate(audits["facts"], 1)]
    return {**audits, "control": hidden, "facts": facts}


START = "start"
_THRESHOLD = "0.08"
_DRAWN_QUESTIONS = 2
# The chart with one line per lens instead of one per model.
_FIT = "lens_fit"


def read_analysis(run: Path) -> dict[str, Any] | None:
    """Read the analysis of a run; None if there is none.

    `lines`: chart -> model -> one value per layer. `circuits`: circuits to draw, of the first questions and all models.
    `findings`: sentences about the numbers.
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
        "lens": {name: model["logprob"] for name, model in lens.items()},
        "lens_kl": {name: model["kl_first"] for name, model in lens.items()},
        _FIT: fit.get("held_out_kl", {}),
        "patching": {name: model["share"] for name, model in patching.items()},
        "adapter": {name: model["norm"] for name, model in adapter.get("layers", {}).items()},
    }
    numbers = {
        "lines": lines,
        "ranks": {name: model["rank"][-1] for name, model in lens.items()},
        "circuit_means": {name: model["mean"][_THRESHOLD] for name, model in circuits.get("models", {}).items()},
        "seesaw": {name: trace["seesaw"] for name, trace in training.items() if trace["seesaw"]},
        "alignment": {name: trace["alignment"] for name, trace in training.items() if trace["alignment"]},
    }
    return {
        **numbers,
        "circuits": _circuits_to_draw(circuits),
        "not_measured": circuits.get("not_measured") or "",
        "findings": findings(numbers),
    }


def redacted_analysis(analysis: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Copy the analysis without circuits, which contain tokens of questions, and without names of runs."""
    if analysis is None:
        return None
    pictures = {picture: lines for picture, lines in analysis["lines"].items() if picture != _FIT}
    names = list(dict.fromkeys(name for lines in pictures.values() for name in lines if name != START))
    new_names = {START: START, **{name: f"model {number}" for number, name in enumerate(names, start=1)}}

    def renamed(by_model: Mapping[str, Any]) -> dict[str, Any]:
        return {new_names[name]: value for name, value in by_model.items() if name in new_names}

    lines = {picture: renamed(lines) for picture, lines in pictures.items()}
    by_model = ("ranks", "circuit_means", "seesaw", "alignment")
    numbers = {
        "lines": lines | {_FIT: analysis["lines"].get(_FIT, {})},
        **{name: renamed(analysis.get(name, {})) for name in by_model},
    }
    return {**numbers, "circuits": [], "not_measured": analysis["not_measured"], "findings": findings(numbers)}


def findings(analysis: Mapping[str, Any]) -> list[str]:
    """Describe each measurement of each model in one sentence; [] without measurements."""
    lines = analysis["lines"]
    sentences = _describe_fit(lines.get(_FIT, {}))
    sentences += _describe_lens(lines["lens"], analysis["ranks"])
    sentences += [_describe_kl(name, values) for name, values in lines["lens_kl"].items() if len(values) > 1]
    sentences += [
        f"{name}: the start model's states at the prompt bring back {_percent(max(values))} of what was lost at most, "
        f"put in at layer {values.index(max(values))}."
        for name, values in lines["patching"].items()
        if values
    ]
    sentences += [
        f"{name}: {_percent(mean['kept_share'])} of the edges of the start model's circuits are still there; "
        f"{mean['lost']:.0f} a question are lost, {mean['gained']:.0f} gained."
        for name, mean in analysis["circuit_means"].items()
        if mean.get("kept_share") is not None
    ]
    sentences += [_describe_alignment(name, trace) for name, trace in analysis.get("alignment", {}).items()]
    return sentences


def _describe_alignment(name: str, trace: Mapping[str, Any]) -> str:
    cosines = (trace[when]["cosine"] for when in ("start", "end"))
    start, end = ("not known" if cosine is None else f"{cosine:.2f}" for cosine in cosines)
    return (
        f"{name}: the gradients of the forget and the retain term have a cosine of {start} at the start of the "
        f"unlearning and of {end} at its end (1: the same step, -1: each undoes the other)."
    )


def abruptness(kl: Sequence[float]) -> float | None:
    """Compute the largest decrease of the KL from one layer to the next, as a share of the sum of all decreases.

    None if the KL never decreases.
    """
    steps = [max(0.0, before - after) for before, after in pairwise(kl)]
    return max(steps) / sum(steps) if sum(steps) > 0 else None


def _describe_fit(fit: Mapping[str, Sequence[float]]) -> list[str]:
    if not fit:
        return []
    pairs = [(logit, tuned) for logit, tuned in zip(fit["logit"][:-1], fit["tuned"][:-1], strict=True) if logit > 0]
    share = statistics.median(1 - tuned / logit for logit, tuned in pairs) if pairs else 0.0
    return [
        f"Layers are read through a tuned lens, the same for all models: on text it was not fitted on it takes away "
        f"{_percent(share)} of a layer's KL to the last (median layer)."
    ]


def _describe_lens(lens: Mapping[str, Sequence[float]], ranks: Mapping[str, float]) -> list[str]:
    if not lens.get(START):
        return []
    return [
        f"{name}: a token of the true answer has a mean log-probability of {values[-1]:.2f} "
        f"({lens[START][-1]:.2f} before) and a median rank of {ranks[name]:.0f}."
        for name, values in lens.items()
        if name != START and values
    ]


def _describe_kl(name: str, values: Sequence[float]) -> str:
    share = abruptness(values)
    if share is None:
        return f"{name}: no layer is nearer to the last than the one before it."
    return (
        f"{name}: the largest single step towards the last layer makes {_percent(share)} of the way "
        f"(median layer: KL {statistics.median(values):.1f})."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _circuits_to_draw(circuits: Mapping[str, Any]) -> list[dict[str, Any]]:
    models = circuits.get("models", {})
    drawn = []
    for question, tokens in list(circuits.get("tokens", {}).items())[:_DRAWN_QUESTIONS]:
        edges = {
            name: [edge[:4] for edge in model["questions"][question][_THRESHOLD]["edges"]]
            for name, model in models.items()
        }
        shared = {"tokens": tokens, "layers": circuits["layers"]}
        drawn += [
            {"model": name, **shared, "edges": own, "start": None if name == START else edges[START]}
            for name, own in edges.items()
        ]
    return drawn
