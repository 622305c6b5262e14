"""Run folders of a comparison. What is the same for every method is done once and taken over.

    OUT/shared/          start model, answers before, their perplexity, synthesis
    OUT/search/NAME/     one training for each learning rate, with selection.json
    OUT/runs/NAME/       the full run at the chosen one

Each is an ordinary run folder: killed anywhere, the same call goes on, and what is finished is not touched.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from relearn.core import console
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.run_dir import (
    MARKER,
    RunDir,
    check_links,
    is_new,
    is_output,
    read_jsonl,
    remove_outputs,
    replaced_dir,
    write_json,
    write_text,
)
from relearn.inference.run_models import RunModels
from relearn.unlearning.method import METHODS
from relearn.unlearning.procedures import result_name
from relearn.workflows.compare.comparison_config import Planned
from relearn.workflows.run.eval_stages import add_perplexity
from relearn.workflows.run.pipeline import STAGES, do, run
from relearn.workflows.run.prepare import prepare
from relearn.workflows.run.state import PARTS, State

_KEPT = ("synthesis", "notes", "versions", "before_perplexity")
TAKEN = STAGES[: STAGES.index("unlearn")]


def ready(folder: RunDir, recipe: Recipe, stage: str) -> bool:
    """Whether a run of this recipe has done a stage; without looking at the records again."""
    if not (folder / "recipe.yaml").exists() or not folder.is_done(stage):
        return False
    try:
        return Recipe.from_yaml(folder / "recipe.yaml") == recipe
    except InputError:
        return False


def finish(planned: Planned, folder: Path, until: str = "report") -> RunDir:
    """Do what is left of a run."""
    check_links(folder)
    if not ready(RunDir(folder), planned.recipe, until):
        console.note(f"--- {planned.name}")
        run(planned.recipe, folder, resume=(folder / "recipe.yaml").exists(), until=until)
    return RunDir(folder)


def finish_shared(planned: Planned, folder: Path, *, written: bool) -> RunDir:
    """The start model and its answers with their perplexity; new answers as well when `written`."""
    done = finish(planned, folder, until="before")
    if not done.manifest.get("before_perplexity"):
        models = RunModels(planned.recipe, folder)
        with console.stage("perplexity of the answers before"):
            for path in answer_files(done, "before"):
                add_perplexity(models.base(), [path])
        models.release()
        done.update_manifest(before_perplexity=True)
    if written:
        finish(planned, folder, until="synthesis")
    return done


def needs_synthesis(recipe: Recipe) -> bool:
    return METHODS.get(recipe.unlearn.method).needs_synthesis(recipe.unlearn.options)


def answer_files(folder: RunDir, when: str) -> list[Path]:
    files = (folder / f"{when}/{name}.jsonl" for name, _, _ in PARTS)
    return [file for file in files if file.exists()]


def take_over(
    planned: Planned, folder: Path, donor: RunDir, *, learned: RunDir | None = None, only: tuple[str, ...] = TAKEN
) -> None:
    """Begin a run folder with what `donor` has done before unlearning, unless it was begun already.

    With `learned`, the unlearned model is the one learned there, on a recipe that learns nothing itself.
    """
    if (folder / "recipe.yaml").exists():
        return
    if not is_new(folder):
        raise InputError("is not empty and holds no run", where=str(folder), way_out="choose another --out")
    if folder.exists():
        remove_outputs(folder)
    manifest = donor.manifest
    stages = {name: manifest["stages"][name] for name in only if donor.is_done(name)}
    with replaced_dir(folder) as target:
        if learned is not None:
            stages.pop("learn", None)
            result = result_name(planned.recipe.unlearn)
            _copy(learned / "start", target / result)
            stages["unlearn"] = {**learned.manifest["stages"]["learn"], "outputs": [result]}
        for name in stages:
            for output in stages[name]["outputs"] if name in TAKEN else ():
                if not is_output(output):
                    raise InputError(f"names {output!r}, which no run writes", where=str(donor / "manifest.json"))
                _copy(donor / output, target / output)
        kept = {key: manifest[key] for key in _KEPT if key in manifest}
        write_json(target / "manifest.json", {**MARKER, **kept, "taken_over": list(stages), "stages": stages})
        write_text(target / "recipe.yaml", planned.recipe.to_yaml())


def evaluate(planned: Planned, folder: Path) -> RunDir:
    """Ask and score a model that was not made here; there is no training to report on."""
    check_links(folder)
    if not ready(RunDir(folder), planned.recipe, "scores"):
        console.note(f"--- {planned.name}")
        state = State(planned.recipe, RunDir(folder), prepare(planned.recipe))
        for stage in ("after", "perplexity", "scores"):
            do(state, stage)
    return RunDir(folder)


def training_log(folder: RunDir, stage: str = "unlearn") -> dict[str, Any]:
    """Steps, tokens and seconds of a training; a step that was repeated after a kill counts once."""
    path = folder / "log.jsonl"
    rows = read_jsonl(path, torn=True) if path.exists() else []
    steps = {row["step"]: row.get("tokens", 0) for row in rows if row.get("stage") == stage and "loss" in row}
    seconds = folder.manifest["stages"].get(stage, {}).get("seconds")
    return {"steps": len(steps), "tokens": sum(steps.values()), "seconds": seconds}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
