"""`relearn demo`: a real model learns about invented people, forgets their private facts, is asked again.

The dozen invented people of `relearn demo`: what is to be forgotten about them, what is to stay, how it is asked.

Every person has private facts (the forget set) and public ones (the retain set). Each fact is asked in one trained
wording, in one wording that is a probe only (`<id>-probe`: neither memorised nor unlearned), and in further wordings by
which the model learns it in the first place (`<id>-l1` to `<id>-l3`).
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from relearn.core import console
from relearn.core.config import Recipe
from relearn.core.run_dir import RunDir, is_ours
from relearn.data import Record, Split
from relearn.report.labels import print_summary
from relearn.workflows.run.estimate import estimate_minutes
from relearn.workflows.run.pipeline import run
from relearn.workflows.run.prepare import check_folder


def demo_recipe() -> Recipe:
    """The demo as a recipe; nothing in it is special to the demo."""
    files = resources.files("relearn.workflows.demo").joinpath("data")
    data = {
        name: str(files.joinpath(f"{name}.jsonl"))
        for name in ("private", "public", "probes_private", "probes_public", "learn")
    }
    return Recipe.from_mapping(
        {
            "name": "demo",
            "model": {"name": "smollm2-135m-instruct", "system_prompt": "", "dtype": "float32", "device": "cpu"},
            "data": {
                "forget": data["private"],
                "retain": data["public"],
                "probes": {"forget": data["probes_private"], "retain": data["probes_public"]},
            },
            "learn": {
                "data": [data["private"], data["public"], data["learn"]],
                "epochs": 4.5,
                "learning_rate": 1e-3,
                "batch_size": 4,
                "lora": {"r": 16, "alpha": 32, "dropout": 0.0},
            },
            "synthesis": {"generic_ratio": 0.5},
            "unlearn": {
                "epochs": 2,
                "learning_rate": 2e-3,
                "batch_size": 4,
                "lora": {"r": 16, "alpha": 32, "dropout": 0.0},
            },
            "generate": {"max_new_tokens": 48, "batch_size": 25},
        }
    )


def run_demo(out: Path) -> None:
    """Run the demo in `out`, or what is left of it, and end with the table and the report's name."""
    recipe = demo_recipe()
    begun = (out / "recipe.yaml").exists()
    check_folder(RunDir(out), recipe, resume=begun)
    if is_ours(out) and RunDir(out).is_done("report"):
        console.note(f"{out} holds a finished demo; remove it to run again")
    else:
        console.note("SmolLM2-135M-Instruct learns 50 invented facts, forgets the 20 private ones, and is asked again")
        console.note(f"about {estimate_minutes(recipe):.0f} minutes on this machine, by the time a few rows take")
    folder = run(recipe, out, resume=begun)
    print_summary(folder.path)
    console.note(f'ask it yourself: relearn ask {out} "Where does Marta Lindqvist live?"')
    console.note(f"report: {folder.path / 'report.html'}")


Name = Literal["private", "public", "probes_private", "probes_public", "learn"]
NAMES: tuple[Name, ...] = get_args(Name)


def load(name: Name) -> list[Record]:
    """The rows of one file, in file order; private facts are `forget`, public ones `retain`, whatever their wording."""
    private = {row["id"] for row in _rows("private")}
    return [_record(row, private, f"demo/{name}") for row in _rows(name)]


def fact_id(record_id: str) -> str:
    """The fact a probe or another wording asks for: "lindqvist-book" for "lindqvist-book-probe"."""
    stem, _, last = record_id.rpartition("-")
    return stem if last in ("probe", "l1", "l2", "l3") else record_id


def _record(row: dict[str, str], private: set[str], source: str) -> Record:
    split: Split = "forget" if fact_id(row["id"]) in private else "retain"
    return Record(row["question"], row["answer"], row["id"], row["subject"], split, source=source)


def _rows(name: str) -> list[dict[str, Any]]:
    text = resources.files("relearn.workflows.demo").joinpath("data", f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line]
