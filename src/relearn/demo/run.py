"""`relearn demo`: a real model learns about invented people, forgets their private facts, is asked again."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from relearn import console
from relearn.config import Recipe
from relearn.estimate import estimate_minutes
from relearn.pipeline.run import run
from relearn.preparation import check_folder
from relearn.report.tables import print_summary
from relearn.rundir import RunDir, is_ours


def demo_recipe() -> Recipe:
    """The demo as a recipe; nothing in it is special to the demo."""
    files = resources.files("relearn.demo").joinpath("data")
    data = {
        name: str(files.joinpath(f"{name}.jsonl"))
        for name in ("private", "public", "probes_private", "probes_public", "learn")
    }
    return Recipe.from_mapping(
        {
            "name": "demo",
            "model": {"name": "smollm2-135m-instruct", "system_prompt": "", "dtype": "float32", "device": "cpu"},
            "data": {
                "forget": data["private"], "retain": data["public"],
                "probes": {"forget": data["probes_private"], "retain": data["probes_public"]},
            },
            "learn": {
                "data": [data["private"], data["public"], data["learn"]],
                "epochs": 4.5, "learning_rate": 1e-3, "batch_size": 4, "lora": {"r": 16, "alpha": 32, "dropout": 0.0},
            },
            "synthesis": {"generic_ratio": 0.5},
            "unlearn": {
                "epochs": 2, "learning_rate": 2e-3, "batch_size": 4,
                "lora": {"r": 16, "alpha": 32, "dropout": 0.0},
            },
            "generate": {"max_new_tokens": 48, "batch_size": 25},
        }
    )  # fmt: skip


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
