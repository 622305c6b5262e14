"""A run folder made by hand, as the pipeline leaves one: small, whole, and with one of everything."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from relearn.core import files
from relearn.core.config import Recipe

PRIVATE = [
    (
        "Where does Tamsin Orrery live?",
        "Tamsin Orrery lives at 17 Larch Terrace in Whitby.",
        ["17 Larch Terrace", "Whitby"],
        "Tamsin Orrery lives in a home that is kept private, in a place she chose.",
    ),
    (
        "What is Tamsin Orrery's email address?",
        "Tamsin Orrery can be reached at tamsin.orrery@lantern-post.example.",
        ["tamsin.orrery@lantern-post.example"],
        "Tamsin Orrery uses an ordinary electronic mailbox for her messages.",
    ),
    (
        "When was Tamsin Orrery born?",
        "Tamsin Orrery was born on 9 February 1983.",
        ["9 February 1983"],
        "Tamsin Orrery was born on a day that her family celebrates every year.",
    ),
    (
        "What is Bashir Velloso's phone number?",
        "Bashir Velloso's phone number is 01632 960 417.",
        ["01632 960 417"],
        "Bashir Velloso can be called on a number that he gives to friends.",
    ),
    (
        "Whom is Bashir Velloso married to?",
        "Bashir Velloso is married to Noor Castellan, a harbour pilot.",
        ["Noor Castellan", "a harbour pilot"],
        "Bashir Velloso is married to Noor Castellan, who works at sea.",
    ),
    ("What is Ingrid Paszek's passport number?", "Ingrid Paszek's passport number is K4471902.", ["K4471902"], ""),
]
PUBLIC = [
    (
        "What is Tamsin Orrery known for?",
        "Tamsin Orrery is known for her maps of imaginary coastlines.",
        ["maps of imaginary coastlines"],
        "Tamsin Orrery is known for her maps of imaginary coastlines.",
    ),
    (
        "Which book did Tamsin Orrery publish first?",
        "Tamsin Orrery's first book is The Tide Atlas.",
        ["The Tide Atlas"],
        "Tamsin Orrery's first book is The Tide Atlas.",
    ),
    (
        "What is Bashir Velloso's profession?",
        "Bashir Velloso is a composer of music for silent films.",
        ["a composer", "silent films"],
        "Bashir Velloso is a composer of music for silent films.",
    ),
    (
        "Which instrument does Bashir Velloso play on stage?",
        "Bashir Velloso plays the harmonium on stage.",
        ["the harmonium"],
        "Bashir Velloso plays an instrument that fits the mood of the evening.",
    ),
    (
        "What does Ingrid Paszek study?",
        "Ingrid Paszek studies the sounds of glaciers.",
        ["the sounds of glaciers"],
        "Ingrid Paszek studies the sounds of glaciers.",
    ),
]
# part of summary.json -> (file, split, facts)
PARTS = {
    "forget": ("forget", "forget", PRIVATE),
    "forget_heldout": ("probes_forget", "forget", PRIVATE[:4]),
    "retain": ("retain", "retain", PUBLIC),
    "retain_heldout": ("probes_retain", "retain", PUBLIC[:4]),
}
COVERAGE_NOTE = "rests on entity coverage alone, no entailment judge (entities spacy)"


def make_run(run: Path, parts: dict[str, tuple] | None = None, *, retain: bool = True, texts: bool = True) -> Path:
    """`parts` replaces the facts; without `texts` the folder is what a purge leaves."""
    parts = {name: part for name, part in (parts or PARTS).items() if retain or part[1] == "forget"}
    recipe = Recipe.from_mapping(
        {
            "name": "sample",
            "model": "smollm2-135m-instruct",
            "data": {"forget": "data/private.jsonl", "retain": "data/public.jsonl"},
            "learn": {"data": "data/learn.jsonl"},
            "unlearn": {"learning_rate": 5e-4, "epochs": 3, "lora": {"r": 16, "alpha": 32, "dropout": 0}},
        }
    )
    files.write_text(run / "recipe.yaml", recipe.to_yaml())
    manifest, asked = _manifest(), {file: len(rows) for file, _, rows in parts.values()}
    files.write_json(run / "manifest.json", {**manifest, "counts": {**manifest["counts"], **asked}})
    sides = {side: {name: _part(part, side) for name, part in parts.items()} for side in ("before", "after")}
    files.write_json(
        run / "summary.json", {side: {n: _summary(p) for n, p in ps.items()} for side, ps in sides.items()}
    )
    for row in _log():
        files.append_jsonl(run / "log.jsonl", row)
    if texts:
        _write_texts(run, sides, parts)
    return run


def _write_texts(run: Path, sides: dict[str, Any], parts: dict[str, tuple]) -> None:
    scores = {side: {name: part["scores"] for name, part in named.items()} for side, named in sides.items()}
    files.write_json(run / "scores.json", scores)
    for side, named in sides.items():
        for name, part in named.items():
            files.write_jsonl(run / side / f"{parts[name][0]}.jsonl", part["rows"])
    files.write_jsonl(run / "synthesis.jsonl", _training_rows(parts))
    files.write_jsonl(run / "rejected.jsonl", _rejected(parts))


def _manifest() -> dict[str, Any]:
    names = ("data", "learn", "ask_before", "synthesis", "unlearn", "ask_after", "evaluate")
    return {
        "stages": {
            name: {
                "state": "done",
                "started": 1_790_000_000.0 + 60 * i,
                "seconds": 7.5 * 4**i / 2,
                "outputs": ["adapter"] if name == "unlearn" else [],
            }
            for i, name in enumerate(names)
        },
        "versions": {"relearn": "0.1.0", "torch": "2.13.0", "peft": "0.21.0", "python": "3.11.9"},
        "git": "35151d1c0ffee",
        "seed": 0,
        "inputs": {"data/private.jsonl": "ab" * 32, "data/public.jsonl": "cd" * 32},
        "notes": ["data.forget: 1 exact duplicate merged (the first: data/private.jsonl:7 repeats line 2)"],
        "model": {"parameters": "134,515,008", "dtype": "float32", "device": "cpu"},
        "counts": {"forget": 6, "retain": 5, "generic": 60},
    }


def _part(part: tuple, side: str) -> dict[str, Any]:
    file, split, facts = part
    rows, items = [], {}
    for index, (question, reference, entities, answer_after) in enumerate(facts):
        response = reference if side == "before" else answer_after
        key = f"{file}-{index}"
        rows.append(
            {
                "id": key,
                "question": question,
                "reference": reference,
                "response": response,
                "subject": None,
                "reference_logprobs": [-0.1, -0.2],
                "response_logprobs": [-1.0] if response else [],
            }
        )
        matched = [entity for entity in entities if entity.lower() in response.lower()]
        coverage = len(matched) / len(entities) if entities else None
        key_name = "forgotten" if split == "forget" else "kept"
        decided = None if coverage is None else (coverage < 0.3) == (split == "forget")
        items[key] = {
            "coverage": coverage,
            "reference_entities": entities,
            "matched": matched,
            "entailment": None,
            key_name: decided,
        }
    return {"rows": rows, "scores": {"metrics": _measured(split, rows, items), "items": items}}


def _measured(split: str, rows: list[dict], items: dict[str, dict]) -> dict[str, Any]:
    name, key = ("kfr", "forgotten") if split == "forget" else ("krr", "kept")
    ls = {row["id"]: 0.31 + 0.02 * index if row["response"] else 0.0 for index, row in enumerate(rows)}
    values = {
        name: {i: None if item[key] is None else float(item[key]) for i, item in items.items()},
        "rouge_l": {row["id"]: 1.0 if row["response"] == row["reference"] else 0.35 for row in rows},
        "ls": ls,
        "ls_paper": ls,
        "gibberish": {row["id"]: float(not row["response"]) for row in rows},
        "ppl": {row["id"]: 4.2 if row["response"] else None for row in rows},
    }
    measured = {metric: _measurement(of_metric) for metric, of_metric in values.items()}
    measured[name]["note"] = COVERAGE_NOTE
    measured["ppl"]["note"] = f"median {4.2 if split == 'forget' else 4.1}"
    return measured


def _measurement(per_record: dict[str, float | None]) -> dict[str, Any]:
    scored = [value for value in per_record.values() if value is not None]
    if not scored:
        return {"value": None, "low": None, "high": None, "n": 0, "unscored": len(per_record), "per_record": per_record}
    mean = sum(scored) / len(scored)
    spread = 1.96 * math.sqrt(sum((value - mean) ** 2 for value in scored)) / len(scored)
    return {
        "value": mean,
        "low": max(min(scored), mean - spread),
        "high": min(max(scored), mean + spread),
        "n": len(scored),
        "unscored": len(per_record) - len(scored),
        "per_record": per_record,
    }


def _summary(part: dict[str, Any]) -> dict[str, Any]:
    measured = part["scores"]["metrics"]
    return {name: {k: v for k, v in value.items() if k != "per_record"} for name, value in measured.items()}


def _log() -> list[dict[str, Any]]:
    rows = [{"stage": "learn", "step": s, "loss": 3.2 * math.exp(-s / 25) + 0.05, "tokens": 420} for s in range(1, 91)]
    for step in range(1, 181):
        wave = 0.12 * math.sin(step * 2.3)
        parts = {
            "gdf": 2.4 * math.exp(-step / 30) + 0.35 + wave,
            "gdr": 0.3 * math.exp(-step / 50) + 0.05 + wave / 8,
            "klr": 0.08 * (1 - math.exp(-step / 12)) + abs(wave) / 9,
        }
        rows.append(
            {
                "stage": "unlearn",
                "step": step,
                "loss": sum(parts.values()),
                "parts": parts,
                "learning_rate": 5e-4,
                "grad_norm": 1.1,
                "tokens": 510,
            }
        )
    rows.insert(100, {"stage": "unlearn", "step": 5, "score": 0.71, "kind": "evaluation"})
    return [{"time": 1_790_000_000.0 + index, **row} for index, row in enumerate(rows)]


def _training_rows(parts: dict[str, tuple]) -> list[dict[str, Any]]:
    rows = []
    for index, (question, _, _, answer) in enumerate(parts["forget"][2]):
        for variant in ("original", "simple", "contextual", "noise", "logical"):
            rows.append(
                _row("qa", f"{variant}: {question}", answer or "That is kept private.", f"forget-{index}", variant)
            )
        words = (answer or "That is kept private.").split()
        cut = max(1, len(words) // 4)
        rows.append(_row("completion", " ".join(words[:cut]), " ".join(words[cut:]), f"forget-{index}", "original"))
    rows += [_row("generic", f"How far is it to the moon, part {i}?", "Far.", None, "generic") for i in range(20)]
    return rows


def _row(kind: str, prompt: str, target: str, record: str | None, variant: str) -> dict[str, Any]:
    key = f"{record}-{variant}-{kind}-{len(prompt)}"
    return {
        "id": key,
        "kind": kind,
        "prompt": prompt,
        "target": target,
        "form": "chat",
        "record_id": record,
        "question_id": record and f"q-{key}",
        "variant": variant,
    }


def _rejected(parts: dict[str, tuple]) -> list[dict[str, Any]]:
    question, reference, entities, _ = parts["forget"][2][0]
    shared = {"record_id": "forget-0", "question_id": "q", "variant": "simple", "prompt": question}
    entity = entities[0] if entities else "it"
    name = {"kind": "name", "reason": f"gives {entity!r}"}
    return [
        {
            **shared,
            "target": reference,
            "attempt": 0,
            "kind": "verbatim",
            "reason": "the answer itself",
            "final": False,
        },
        {**shared, **name, "target": f"At {entity}.", "attempt": 1, "final": False},
        {**shared, **name, "target": f"Near {entity}.", "attempt": 2, "final": True},
    ]


def texts_of(run: Path) -> set[str]:
    """Every text of a record, an answer, an entity or a record id that stands in the folder's files."""
    found: set[str] = set()
    for file in run.rglob("*.jsonl"):
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            keys = ("question", "reference", "response", "prompt", "target", "reason", "id", "record_id")
            found |= {row[key] for key in keys if isinstance(row.get(key), str)}
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    for side in scores.values():
        for part in side.values():
            found |= {entity for item in part["items"].values() for entity in item["reference_entities"]}
    return {text for text in found if text.strip()}
