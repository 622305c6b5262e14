"""Run the trainings of a comparison; stages that are the same for every method are copied from one shared run.

    OUT/shared/          start model, answers before with their perplexity, synthesis
    OUT/search/NAME/     one short training per learning rate, with selection.json
    OUT/runs/NAME/       the full run with the chosen learning rate

Each is an ordinary run folder: the same call continues an interrupted run and does nothing for a finished one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from relearn.core import console
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.files import replaced_dir, write_json, write_text
from relearn.core.ownership import check_links, is_new, is_output, remove_outputs
from relearn.core.run_dir import MANIFEST, MARKER, RECIPE, START, RunFolder
from relearn.core.splits import SPLITS
from relearn.inference.run_models import ModelSet
from relearn.unlearning.method import METHODS
from relearn.unlearning.procedures import result_name
from relearn.workflows.compare.comparison_config import PlannedRun
from relearn.workflows.run.context import RunContext
from relearn.workflows.run.eval_stages import add_perplexity
from relearn.workflows.run.pipeline import STAGE_NAMES, check_inputs, run, run_stage

_COPIED_KEYS = ("synthesis", "notes", "versions", "before_perplexity", "date", "files")
COPIED_STAGES = STAGE_NAMES[: STAGE_NAMES.index("unlearn")]


def run_until(run_plan: PlannedRun, folder: Path, until: str = "report") -> RunFolder:
    """Run the stages of a run that are not done, up to stage `until`; return its folder."""
    check_links(folder)
    run_folder = RunFolder(folder)
    if not is_done(run_folder, run_plan.recipe, until):
        console.note(f"--- {run_plan.name}")
        run(run_plan.recipe, folder, resume=run_folder.has_recipe, until=until)
    return run_folder


def is_done(folder: RunFolder, recipe: Recipe, stage: str) -> bool:
    """Return whether the folder has a run of this recipe with the stage done, without reading its records."""
    if not folder.has_recipe or not folder.is_done(stage):
        return False
    try:
        return folder.recipe.makes_same_answers(recipe)
    except InputError:
        return False


def run_shared(run_plan: PlannedRun, folder: Path, *, with_synthesis: bool) -> RunFolder:
    """Run the stages of a shared run: start model, answers before with perplexity, and synthesis if asked for."""
    done = run_until(run_plan, folder, until="before")
    if not done.manifest.get("before_perplexity"):
        models = ModelSet.of_run(run_plan.recipe, folder)
        with console.stage("perplexity of the answers before"):
            answers = _answer_files(done, "before")
            with done.rewriting(str(path.relative_to(done.path)) for path in answers):
                for path in answers:
                    add_perplexity(models.base(), [path])
        models.release()
        done.update_manifest(before_perplexity=True)
    if with_synthesis:
        run_until(run_plan, folder, until="synthesis")
    return done


def needs_synthesis(recipe: Recipe) -> bool:
    return METHODS.get(recipe.unlearn.method).needs_synthesis(recipe.unlearn.options)


def _answer_files(folder: RunFolder, side: str) -> list[Path]:
    return [path for split in SPLITS if (path := folder.answers_path(side, split)).exists()]


def copy_stages(
    run_plan: PlannedRun,
    folder: Path,
    donor: RunFolder,
    *,
    learned: RunFolder | None = None,
    only: tuple[str, ...] = COPIED_STAGES,
) -> None:
    """Start a run folder with the stages `only` copied from `donor`; do nothing if the run was started before.

    With `learned`, the start model of that run becomes the unlearned model of this run, whose recipe has no `learn`.
    Raises InputError for a folder with other content, and for outputs in the manifest of `donor` that no run writes.
    """
    if RunFolder(folder).has_recipe:
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
            result = result_name(run_plan.recipe.unlearn)
            _copy(learned / START, target / result)
            stages["unlearn"] = {**learned.manifest["stages"]["learn"], "outputs": [result]}
        for name in stages:
            for output in stages[name]["outputs"] if name in COPIED_STAGES else ():
                if not is_output(output):
                    raise InputError(f"names {output!r}, which no run writes", where=str(donor / MANIFEST))
                _copy(donor / output, target / output)
        copied = {key: manifest[key] for key in _COPIED_KEYS if key in manifest}
        write_json(target / MANIFEST, {**MARKER, **copied, "taken_over": list(stages), "stages": stages})
        write_text(target / RECIPE, run_plan.recipe.to_yaml())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def evaluate(run_plan: PlannedRun, folder: Path) -> RunFolder:
    """Ask and score the model of a folder that `copy_stages` made, without a report."""
    check_links(folder)
    run_folder = RunFolder(folder)
    if not is_done(run_folder, run_plan.recipe, "scores"):
        console.note(f"--- {run_plan.name}")
        context = RunContext(run_plan.recipe, run_folder, check_inputs(run_plan.recipe))
        for stage in ("after", "perplexity", "scores"):
            run_stage(context, stage)
    return run_folder


def training_log(folder: RunFolder, stage: str = "unlearn") -> dict[str, Any]:
    """Return steps, tokens and seconds of a training; a step that a resumed run repeated counts once."""
    rows = [row for row in folder.log_rows if row.get("stage") == stage and "loss" in row]
    tokens = {row["step"]: row.get("tokens", 0) for row in rows}
    seconds = folder.manifest["stages"].get(stage, {}).get("seconds")
    return {"steps": len(tokens), "tokens": sum(tokens.values()), "seconds": seconds}
