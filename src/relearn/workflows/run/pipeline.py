"""Run a recipe in a run folder: check, train, evaluate, audit, report.

Every stage reads the files of earlier stages from the folder and is skipped if it is done. An interrupted run therefore
continues at the stage where it stopped, and ends with the same files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from relearn.core import distributed, plugins
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.files import write_text
from relearn.core.ownership import outputs_in, own_folder, refuse_overwrite
from relearn.core.run_dir import RECIPE, RunFolder
from relearn.data.validation import DataSet, load_all
from relearn.inference.run_models import fingerprints
from relearn.workflows import audit as auditing
from relearn.workflows.run import eval_stages as evaluation
from relearn.workflows.run import train_stages as training
from relearn.workflows.run.context import RunContext, Stage, no_check
from relearn.workflows.run.inputs import begin_run, check_folder, input_paths, record_models, with_subjects


def run(recipe: Recipe, out: Path | str, *, resume: bool = False, until: str = "report") -> RunFolder:
    """Run a recipe in folder `out` up to stage `until`, or with `resume` continue such a run; return the folder.

    Raises InputError, before anything is written, for wrong input or a folder of another recipe. Raises RunFailedError
    if the run fails; completed stages are kept, and `resume` continues after them.
    """
    if until not in STAGE_NAMES:
        raise InputError(f"unknown stage {until!r}", way_out=f"one of {', '.join(STAGE_NAMES)}")
    folder, stages = RunFolder(out), STAGES[: STAGE_NAMES.index(until) + 1]
    with ExitStack() as held:
        data = distributed.on_main(lambda: open_run(folder, recipe, held, stages=stages, resume=resume))
        _run_stages(RunContext(recipe, folder, data), stages)
    return folder


def unlearn(recipe: Recipe, out: Path | str, *, resume: bool = False) -> RunFolder:
    """Run a recipe up to the stage `unlearn`, without evaluation of the unlearned model."""
    return run(recipe, out, resume=resume, until="unlearn")


def score_again(out: Path | str, changes: Sequence[str] = (), *, trust_remote_code: bool = False) -> RunFolder:
    """Score the answers of a finished run again and rewrite its report; `changes` replace keys of its recipe.

    `trust_remote_code`: run code from the repository of the model, whose tokenizer checks the records.
    """
    folder = own_folder(out, RECIPE)
    original = (folder / RECIPE).read_text(encoding="utf-8")
    recipe = folder.recipe_to_load(trust_remote_code=trust_remote_code, changes=tuple(changes))
    # Scoring needs no unlearning method, so the plug-in that provided it need not be loaded.
    by_plugin = folder.is_done("unlearn") and folder.manifest.get("plugins")
    needed = [stage for stage in STAGES if stage.name != "audit" and not (by_plugin and stage.uses_method)]
    with ExitStack() as held:
        data = distributed.on_main(lambda: _open_again(folder, recipe, held, needed))
        try:
            _run_stages(RunContext(recipe, folder, data), needed)
        except InputError:
            write_text(folder / RECIPE, original)
            raise
    return folder


def _open_again(folder: RunFolder, recipe: Recipe, held: ExitStack, stages: Sequence[Stage]) -> DataSet:
    """Open a finished run with a recipe that may judge its answers in another way; its scores are no longer done."""
    refuse_overwrite(outputs_in(folder.path), input_paths(recipe))
    data = _open(folder, recipe, held, stages)
    folder.drop_stages("scores", "report")
    return data


STAGES = (
    Stage("learn", training.check_learn, training.learn_outputs, training.learn, all_processes=True),
    Stage("neighbours", no_check, training.neighbour_outputs, training.neighbours),
    Stage("wordings", training.check_wordings, training.wording_outputs, training.wordings),
    Stage("before", evaluation.check_asking, evaluation.before_outputs, evaluation.before, all_processes=True),
    Stage("synthesis", training.check_synthesis, training.synthesis_outputs, training.synthesis, uses_method=True),
    Stage("alternates", training.check_synthesis, training.alternate_outputs, training.alternates, uses_method=True),
    Stage(
        "unlearn",
        training.check_unlearn,
        training.unlearn_outputs,
        training.unlearn,
        all_processes=True,
        uses_method=True,
    ),
    Stage("after", no_check, evaluation.after_outputs, evaluation.after, all_processes=True),
    Stage("perplexity", no_check, evaluation.perplexity_outputs, evaluation.perplexity, all_processes=True),
    Stage("audit", no_check, auditing.audit_outputs, auditing.audit_stage),
    Stage("scores", evaluation.check_scores, evaluation.score_outputs, evaluation.score),
    Stage("report", no_check, evaluation.report_outputs, evaluation.report),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def _run_stages(context: RunContext, stages: Sequence[Stage]) -> None:
    for stage in stages:
        run_stage(context, stage.name)


def open_run(
    folder: RunFolder, recipe: Recipe, held: ExitStack, *, stages: Sequence[Stage] = STAGES, resume: bool
) -> DataSet:
    """Validate all inputs, lock the run folder and write the initial manifest; return the records.

    Raises InputError before anything is written. The lock is released when `held` closes.
    """
    check_folder(folder, recipe, resume=resume)
    return _open(folder, recipe, held, stages)


def _open(folder: RunFolder, recipe: Recipe, held: ExitStack, stages: Sequence[Stage]) -> DataSet:
    if any(stage.uses_method for stage in stages):
        plugins.require(folder.manifest.get("plugins", ()), folder.path)
    data = check_inputs(recipe, stages)
    begin_run(folder, recipe, data, held)
    return data


def check_inputs(recipe: Recipe, stages: Sequence[Stage] = STAGES) -> DataSet:
    """Read all records of a recipe and run the checks of the stages; return the records with their subjects."""
    data = load_all(recipe.data)
    for stage in stages:
        stage.check(recipe, data)
    return with_subjects(data)


def run_stage(context: RunContext, name: str) -> None:
    """Run a stage unless it is done or has no outputs; if it runs, later stages are marked as not done."""
    stage = STAGES[STAGE_NAMES.index(name)]
    outputs = stage.outputs(context)
    if not outputs or distributed.on_main(lambda: context.folder.is_done(name, check=True)):
        return
    with _recorded(context, name, outputs):
        stage.run(context) if stage.all_processes else distributed.on_main(lambda: stage.run(context))


@contextmanager
def _recorded(context: RunContext, name: str, outputs: list[str]) -> Iterator[None]:
    """Record in the manifest, on the main process, that a stage is running, and then that it is done."""
    if not distributed.is_main():
        yield
        return
    later = STAGE_NAMES[STAGE_NAMES.index(name) + 1 :]
    stages = context.folder.manifest["stages"]
    context.interrupted = stages.get(name, {}).get("state") == "running"
    context.folder.drop_stages(*later)
    with context.folder.stage(name, outputs):
        yield
        record_models(context.folder, fingerprints(context.recipe), began="run")
