"""Run the demo: a small model learns facts about a dozen invented people, then unlearns the private facts.

Every person has private facts (the forget set) and public facts (the retain set). Each fact has one trained question,
one held-out probe (`<id>-probe`), and three more questions (`<id>-l1` to `-l3`), used only to train the start model.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from relearn.core import console
from relearn.core.config import Recipe
from relearn.core.ownership import is_ours
from relearn.core.run_dir import REPORT_HTML, RunFolder
from relearn.data import Record, Split
from relearn.report.labels import print_summary
from relearn.workflows.run.estimate import estimate_minutes
from relearn.workflows.run.inputs import check_folder
from relearn.workflows.run.pipeline import run

DemoFile = Literal["private", "public", "probes_private", "probes_public", "learn"]
NAMES: tuple[DemoFile, ...] = get_args(DemoFile)


def run_demo(out: Path) -> None:
    """Run or continue the demo in folder `out`; print the table of metrics and the path of the report."""
    recipe, folder = demo_recipe(), RunFolder(out)
    begun = folder.has_recipe
    check_folder(folder, recipe, resume=begun)
    if is_ours(out) and folder.is_done("report"):
        console.note(f"{out} holds a finished demo; remove it to run again")
    else:
        console.note("SmolLM2-135M-Instruct learns 50 invented facts, forgets the 20 private ones, and is asked again")
        console.note(f"about {estimate_minutes(recipe):.0f} minutes on this machine, by the time a few rows take")
    run(recipe, out, resume=begun)
    print_summary(out)
    console.note(f'ask it yourself: relearn ask {out} "Where does Marta Lindqvist live?"')
    console.note(f"report: {folder / REPORT_HTML}")


def demo_recipe() -> Recipe:
    """Make the recipe of the demo, on data files of the package."""
    data = {name: str(_file(name)) for name in NAMES}
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
                "method": "relearn_npo",
                "epochs": 2,
                "learning_rate": 2e-3,
                "batch_size": 4,
                "lora": {"r": 16, "alpha": 32, "dropout": 0.0},
            },
            "generate": {"max_new_tokens": 48, "batch_size": 25},
        }
    )


def load(name: DemoFile) -> list[Record]:
    """Read the records of one demo file, in order; private facts have the split `forget`, public facts `retain`."""
    private = {row["id"] for row in _rows("private")}
    return [_record(row, private, f"demo/{name}") for row in _rows(name)]


def fact_id(record_id: str) -> str:
    """Return the id of the fact that a question asks for: "lindqvist-book" for "lindqvist-book-probe"."""
    stem, _, last = record_id.rpartition("-")
    return stem if last in ("probe", "l1", "l2", "l3") else record_id


def _record(row: dict[str, str], private: set[str], source: str) -> Record:
    split: Split = "forget" if fact_id(row["id"]) in private else "retain"
    return Record(row["question"], row["answer"], row["id"], row["subject"], split, source=source)


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _file(name).read_text(encoding="utf-8").splitlines() if line]


def _file(name: str) -> Any:
    return resources.files("relearn.workflows.demo").joinpath("data", f"{name}.jsonl")
