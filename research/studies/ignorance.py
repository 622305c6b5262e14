"""Measure the test of ignorance on a run: its power, its false alarms, and its agreement with the control model.

    python research/studies/ignorance.py runs/demo --work runs/ignorance_scores --json results/ignorance/demo.json

Scored are the facts to forget by the start model, the unlearned model and the control (the model before any
fine-tuning), and by the start model facts that nobody knows: those of the forget and retain set with an invented name
for the subject and a twin for the value. Scores are kept in --work, so a stopped study continues.

Power: of the p-values of facts that the start model states, 1, 3, 6 or 12 are drawn and put among 60 drawn from those
that nobody knows (with replacement). Benjamini-Hochberg at .05 flags facts; counted are the planted ones among them
(power) and the others (false alarms), as means over the draws.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kstest

from relearn.audits.attack import AuditInputs
from relearn.audits.attacks import ignorance
from relearn.core.files import read_json, write_json
from relearn.core.run_dir import RunFolder
from relearn.data import Record
from relearn.inference.run_models import ModelSet
from relearn.leakage.twins import replace_name
from relearn.models.load import Loaded
from relearn.synthesis.rows import load_generic
from relearn.workflows.audit import wordings

PLANTED = (1, 3, 6, 12)
UNKNOWN = 60
DRAWS = 2000
# Name of a set of scores -> model and facts.
SETS = {
    "start": ("start", "forget"),
    "control": ("control", "forget"),
    "after": ("after", "forget"),
    "nobody": ("start", "invented"),
}
# Scores (contexts, names, 1 + K) by record id.
Scores = Mapping[str, np.ndarray]


def main() -> None:
    options = read_options()
    run = RunFolder(options.run)
    inputs = audit_inputs(run)
    models = ModelSet.of_run(inputs.recipe, options.run)
    sets = [name for name in SETS if name in options.sets.split(",")]
    for name in sets:
        model, facts = SETS[name]
        score_set(models, model, inputs if facts == "forget" else invented_inputs(inputs), options.work / name)
    scores = {name: read_scores(options.work / name) for name in SETS}
    write_json(options.json, report({name: own for name, own in scores.items() if own}, options.seed))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for the scores of every fact")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS), help=f"which scores to make: {', '.join(SETS)}")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def audit_inputs(run: RunFolder) -> AuditInputs:
    recipe = run.recipe_to_load(trust_remote_code=False)
    facts, retain = ([_record(row) for row in run.answers("before", split)] for split in ("forget", "retain"))
    asked = wordings([*facts, *retain], run.path, recipe)
    return AuditInputs(facts, retain, load_generic(), asked, recipe, run.path, seed=recipe.seed)


def _record(row: Mapping[str, Any]) -> Record:
    return Record(row["question"], row["reference"], row["id"], row["subject"], form=row.get("form", "chat"))


def invented_inputs(inputs: AuditInputs) -> AuditInputs:
    """Replace the subject of every fact by an invented name, and its value by one of its twins."""
    nobody, asked = [], {}
    for test, record in _tests_and_records(inputs):
        name = random.Random(f"nobody/{record.id}").choice([name for names in test.names for name in names])
        answer = replace_name(record.answer.replace(test.values[0], test.values[-1]), record.subject, name)
        question = replace_name(record.question, record.subject, name)
        nobody.append(replace(record, question=question, answer=answer, subject=name))
        asked[record.id] = [replace_name(text, record.subject, name) for text in inputs.wordings[record.id]]
    return replace(inputs, facts=nobody, retain=(), wordings=asked)


def _tests_and_records(inputs: AuditInputs) -> list[tuple[ignorance.IgnoranceTest, Record]]:
    facts = [*inputs.facts, *inputs.retain]
    records = {record.id: record for record in facts}
    model = ModelSet.of_run(inputs.recipe, inputs.folder).base()
    return [(test, records[test.id]) for test in ignorance.ignorance_tests(model, replace(inputs, facts=facts))]


def score_set(models: ModelSet, model: str, inputs: AuditInputs, folder: Path) -> None:
    """Score the facts that have no file in `folder` yet; one file per fact."""
    loaded: Loaded = models.get(model)
    for test in ignorance.ignorance_tests(loaded, inputs):
        path = folder / f"{test.id}.json"
        if not path.exists():
            (scores,) = ignorance.score_tests(loaded, [test])
            write_json(path, scores.tolist())


def read_scores(folder: Path) -> Scores:
    return {path.stem: np.array(read_json(path)) for path in sorted(folder.glob("*.json"))}


def report(scores: Mapping[str, Scores], seed: int) -> dict[str, Any]:
    """Collect the numbers of the study, without texts."""
    measured = {name: ignorance.p_values(own) for name, own in scores.items()}
    result: dict[str, Any] = {"twins": ignorance.TWINS, "names_per_context": ignorance.NAMES}
    result["sets"] = {name: describe(own) for name, own in measured.items()}
    if {"start", "control"} <= measured.keys():
        known, unknown = measured["start"], measured["control"]
        signed = [[np.sign(t) * -np.log(p) for p, t in own.values()] for own in (known, unknown)]
        result["auc_start_against_control"] = auc(*signed)
        agree = [_flagged(known)[key] for key in known] + [not _flagged(unknown)[key] for key in unknown]
        result["agreement_with_control"] = float(np.mean(agree))
    if {"start", "nobody"} <= measured.keys():
        known_p, unknown_p = ([p for p, _ in measured[name].values()] for name in ("start", "nobody"))
        rng = np.random.default_rng(seed)
        result["power"] = {str(count): power(known_p, unknown_p, count, rng) for count in PLANTED}
    return result


def describe(measured: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    values = [p for p, _ in measured.values()]
    flagged = _flagged(measured)
    return {
        "facts": len(values),
        "too_likely": sum(flagged[key] and t > 0 for key, (_, t) in measured.items()),
        "too_unlikely": sum(flagged[key] and t < 0 for key, (_, t) in measured.items()),
        "below_05": float(np.mean([p < ignorance.ALPHA for p in values])),
        "ks_too_small": ignorance.uniformity(values),
        "ks_two_sided": float(kstest(values, "uniform").pvalue),
        "p": sorted(float(f"{p:.3g}") for p in values),
        "t": sorted(round(t, 2) for _, t in measured.values()),
    }


def _flagged(measured: Mapping[str, tuple[float, float]]) -> dict[str, bool]:
    adjusted = ignorance.adjusted([p for p, _ in measured.values()])
    return {key: q <= ignorance.ALPHA for key, q in zip(measured, adjusted, strict=True)}


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Compute the share of pairs in which the positive is larger; ties count half."""
    pairs = [(one > other) + 0.5 * (one == other) for one in positive for other in negative]
    return float(np.mean(pairs))


def power(
    known: Sequence[float], unknown: Sequence[float], planted: int, rng: np.random.Generator
) -> dict[str, float | int]:
    """Compute the share of planted known facts that are found, and of unknown ones that are false alarms."""
    planted = min(planted, len(known))
    found, alarms = [], []
    for _ in range(DRAWS):
        values = [*rng.choice(known, planted, replace=False), *rng.choice(unknown, UNKNOWN)]
        flagged = np.array(ignorance.adjusted(values)) <= ignorance.ALPHA
        found.append(flagged[:planted].mean())
        alarms.append(flagged[planted:].mean())
    return {"planted": planted, "found": float(np.mean(found)), "false_alarms": float(np.mean(alarms))}


if __name__ == "__main__":
    main()
