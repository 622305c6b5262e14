"""A whole run, or a part of one, in its folder.

The stages in order, and how one is done.

    records -> learn -> neighbours -> wordings -> before -> synthesis | alternates -> unlearn -> after -> perplexity
        -> scores -> report

Every stage reads what earlier ones wrote to the run folder, so a run killed anywhere goes on there and ends the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from relearn.core import console, distributed, plugins
from relearn.core.config import Data, Recipe, Synthesis
from relearn.core.errors import InputError
from relearn.core.run_dir import (
    RunDir,
    check_links,
    is_new,
    is_ours,
    locked,
    make_private_dir,
    outputs_in,
    own_folder,
    refuse_overwrite,
)
from relearn.data.validation import DataSet, load_all
from relearn.synthesis.generation_cost import check_remote
from relearn.synthesis.rows import load_generic
from relearn.synthesis.synthesize import CACHE, REJECTED, SYNTHESIS, synthesize_to_folder
from relearn.unlearning import train
from relearn.workflows.run import eval_stages, train_stages
from relearn.workflows.run.prepare import begin, check_folder, prepare, with_subject
from relearn.workflows.run.state import Stage, State

BODIES: dict[str, Callable[[State], Stage | None]] = {
    "learn": train_stages.learn,
    "neighbours": train_stages.neighbours,
    "wordings": train_stages.wordings,
    "before": eval_stages.before,
    "synthesis": train_stages.synthesis,
    "alternates": train_stages.alternates,
    "unlearn": train_stages.unlearn,
    "after": eval_stages.after,
    "perplexity": eval_stages.perplexity,
    "scores": eval_stages.score,
    "report": eval_stages.report,
}
STAGES = tuple(BODIES)
# Stages in which all processes work; the others are the main one's alone.
SHARED = ("learn", "before", "unlearn", "after", "perplexity")
# Stages that read the method from the registry.
METHOD_STAGES = ("synthesis", "alternates", "unlearn")


def do(state: State, name: str) -> None:
    """Do stage `name` unless it is done or the recipe has no use for it; what came after it is then done anew."""
    stage = BODIES[name](state)
    if stage is None or distributed.on_main(lambda: state.folder.is_done(name)):
        return
    with _begun(state, name, stage.outputs):
        stage.work() if name in SHARED else distributed.on_main(stage.work)


@contextmanager
def _begun(state: State, name: str, outputs: list[str]) -> Iterator[None]:
    """The main process writes down that the stage has begun, and at the end that it is done."""
    if not distributed.is_main():
        yield
        return
    later = STAGES[STAGES.index(name) + 1 :]
    known = state.folder.manifest["stages"]
    state.interrupted = known.get(name, {}).get("state") == "running"
    state.folder.update_manifest(stages={stage: entry for stage, entry in known.items() if stage not in later})
    with state.folder.stage(name, outputs):
        yield


def run(recipe: Recipe, out: Path | str, *, resume: bool = False, until: str = "report") -> RunDir:
    """Do a whole run in folder `out`, or what is left of it; returns the folder.

    Raises InputError (nothing written) when the input is wrong or the folder belongs to another recipe, RunFailedError
    when the run fails; what was done stays and `resume` goes on from it.
    """
    if until not in STAGES:
        raise InputError(f"unknown stage {until!r}", way_out=f"one of {', '.join(STAGES)}")
    return _run(recipe, RunDir(Path(out)), STAGES[: STAGES.index(until) + 1], resume=resume)


def _run(recipe: Recipe, folder: RunDir, stages: Sequence[str], *, resume: bool, trained: bool = False) -> RunDir:
    """Do `stages`. `trained`: the method is not needed any more, and may come from a plug-in that is not loaded."""
    with ExitStack() as held:
        data = distributed.on_main(lambda: _open(folder, recipe, held, resume=resume, trained=trained))
        state = State(recipe, folder, data)
        for name in stages:
            do(state, name)
    return folder


def _open(folder: RunDir, recipe: Recipe, held: ExitStack, *, resume: bool, trained: bool) -> DataSet:
    """Check everything, take hold of the folder, and write down what the run begins with."""
    check_folder(folder, recipe, resume=resume)
    if not trained:
        plugins.require(folder.manifest.get("plugins", ()), folder.path)
    train.check_sharing(recipe, distributed.launched())
    data = prepare(recipe, trained=trained)
    make_private_dir(folder.path)
    held.enter_context(locked(folder))
    folder.clear_leftovers()
    begin(folder, recipe, data)
    return data


def unlearn(recipe: Recipe, out: Path | str, *, resume: bool = False) -> RunDir:
    """Like `run`, up to the adapter: nothing is asked afterwards."""
    return run(recipe, out, resume=resume, until="unlearn")


def evaluate(out: Path | str) -> RunDir:
    """Score the answers of a finished run once more and write its report anew."""
    folder = RunDir(own_folder(Path(out), "recipe.yaml"))
    kept = {name: entry for name, entry in folder.manifest["stages"].items() if name not in ("scores", "report")}
    folder.update_manifest(stages=kept)
    recipe = Recipe.from_yaml(folder / "recipe.yaml")
    if not _is_trained_by_plugin(folder, recipe):
        return run(recipe, out, resume=True)
    return _run(recipe, folder, [name for name in STAGES if name not in METHOD_STAGES], resume=True, trained=True)


def _is_trained_by_plugin(folder: RunDir, recipe: Recipe) -> bool:
    """Return whether unlearning is done with a plug-in, which scoring the answers again does not need."""
    return folder.is_done("unlearn") and bool(folder.manifest.get("plugins"))


def synthesize(
    forget: Path, out: Path, settings: Synthesis, *, generic: Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Write synthesis.jsonl and rejected.jsonl for a forget set into folder `out`; returns the counts.

    Every answer a generator gives is kept in out/cache.sqlite, so a repeated call asks only what is missing. Raises
    InputError (nothing written) for wrong input and for a folder `out` that holds something else.
    """
    folder = RunDir(Path(out))
    _check_synthesis_folder(folder.path)
    refuse_overwrite(outputs_in(folder.path), (forget, generic))
    data = load_all(Data.model_validate({"forget": str(forget), "generic": str(generic) if generic else None}))
    check_remote(settings, len(data.forget))
    records = [with_subject(record) for record in data.forget]
    make_private_dir(folder.path)
    with locked(folder), console.stage("write new answers", len(records)) as tick:
        folder.clear_leftovers()
        folder.update_manifest()
        made = synthesize_to_folder(records, data.generic or load_generic(), settings, folder.path, seed, tick=tick)
        return dict(made)


def _check_synthesis_folder(path: Path) -> None:
    """Raises InputError for a folder that is not empty and is not one of `synthesize`."""
    if is_new(path):
        return
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    # Version 0.1 wrote no manifest here; whatever it wrote, the answer cache came first.
    old = CACHE in names and all(name in (SYNTHESIS, REJECTED, "lock") or name.startswith(CACHE) for name in names)
    settings = {"recipe.yaml", "evaluation.yaml"} & names
    if settings or not (old or is_ours(path)):
        raise InputError("is not empty and holds no synthesis", where=str(path), way_out="choose another --out")
    check_links(path)
