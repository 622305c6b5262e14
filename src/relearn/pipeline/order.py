"""The stages in order, and how one is done.

    records -> learn -> neighbours -> wordings -> before -> synthesis | alternates -> unlearn -> after -> perplexity
        -> scores -> report

Every stage reads what earlier ones wrote to the run folder, so a run killed anywhere goes on there and ends the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from relearn.core import distributed
from relearn.workflows.run import eval_stages, train_stages
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
