"""Run the trainings of a comparison; copy what is the same for every method from one shared run.

    OUT/shared/          start model, answers before with their perplexity, synthesis
    OUT/search/NAME/     one training for each learning rate, with selection.json
    OUT/runs/NAME/       the full run with the chosen one

Each is an ordinary run folder: the same call continues it after a kill and does nothing where all is done.
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
from relearn.workflows.compare.comparison_config import Planned
from relearn.workflows.run.context import RunContext
from relearn.workflows.run.eval_stages import add_perplexity
from relearn.workflows.run.pipeline import STAGE_NAMES, check_inputs, run, run_stage

_COPIED_KEYS = ("synthesis", "notes", "versions", "before_perplexity")
COPIED_STAGES = STAGE_NAMES[: STAGE_NAMES.index("unlearn")]


def finish(planned: Planned, folder: Path, until: str = "report") -> RunFolder:
    """Run what is left of a run."""
    check_links(folder)
    run_folder = RunFolder(folder)
    if not is_done(run_folder, planned.recipe, until):
        console.note(f"--- {planned.name}")
        run(planned.recipe, folder, resume=run_folder.has_recipe, until=until)
    return run_folder


def is_done(folder: RunFolder, recipe: Recipe, stage: str) -> bool:
    """Tell whether a run of this recipe has done a stage, without reading its records."""
    if not folder.has_recipe or not folder.is_done(stage):
        return False
    try:
        return folder.recipe == recipe
    except InputError:
        return False


def finish_shared(planned: Planned, folder: Path, *, with_synthesis: bool) -> RunFolder:
    """Make the start model and its answers with their perplexity, and the synthesis if asked for."""
    done = finish(planned, folder, until="before")
    if not done.manifest.get("before_perplexity"):
        models = ModelSet.of_run(planned.recipe, folder)
        with console.stage("perplexity of the answers before"):
            for path in _answer_files(done, "before"):
                add_perplexity(models.base(), [path])
        models.release()
        done.update_manifest(before_perplexity=True)
    if with_synthesis:
        finish(planned, folder, until="synthesis")
    return done


def needs_synthesis(recipe: Recipe) -> bool:
    return METHODS.get(recipe.unlearn.method).needs_synthesis(recipe.unlearn.options)


def _answer_files(folder: RunFolder, side: str) -> list[Path]:
    return [path for split in SPLITS if (path := folder.answers_path(side, split)).exists()]


def copy_stages(
    planned: Planned,
    folder: Path,
    donor: RunFolder,
    *,
    learned: RunFolder | None = None,
    only: tuple[str, ...] = COPIED_STAGES,
) -> None:
    """Start a run folder with the stages before unlearning that `donor` has done, unless the run was started before.

    With `learned`, the start model of that run is the unlearned model of this one, whose recipe learns nothing.
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
            result = result_name(planned.recipe.unlearn)
            _copy(learned / START, target / result)
            stages["unlearn"] = {**learned.manifest["stages"]["learn"], "outputs": [result]}
        for name in stages:
            for output in stages[name]["outputs"] if name in COPIED_STAGES else ():
                if not is_output(output):
                    raise InputError(f"names {output!r}, which no run writes", where=str(donor / MANIFEST))
                _copy(donor / output, target / output)
        copied = {key: manifest[key] for key in _COPIED_KEYS if key in manifest}
        write_json(target / MANIFEST, {**MARKER, **copied, "taken_over": list(stages), "stages": stages})
        write_text(target / RECIPE, planned.recipe.to_yaml())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def evaluate(planned: Planned, folder: Path) -> RunFolder:
    """Ask and score a model that was trained elsewhere; no report is written."""
    check_links(folder)
    run_folder = RunFolder(folder)
    if not is_done(run_folder, planned.recipe, "scores"):
        console.note(f"--- {planned.name}")
        context = RunContext(planned.recipe, run_folder, check_inputs(planned.recipe))
        for stage in ("after", "perplexity", "scores"):
            run_stage(context, stage)
    return run_folder


def training_log(folder: RunFolder, stage: str = "unlearn") -> dict[str, Any]:
    """Return steps, tokens and seconds of a training; a step that was repeated after a kill counts once."""
    rows = [row for row in folder.log_rows if row.get("stage") == stage and "loss" in row]
    tokens = {row["step"]: row.get("tokens", 0) for row in rows}
    seconds = folder.manifest["stages"].get(stage, {}).get("seconds")
    return {"steps": len(tokens), "tokens": sum(tokens.values()), "seconds": seconds}
