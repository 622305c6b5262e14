"""The stages in order, and how one is done.

    records -> learn -> neighbours -> wordings -> before -> synthesis | alternates -> unlearn -> after -> perplexity
        -> scores -> report

Every stage reads what earlier ones wrote to the run folder, so a run killed anywhere goes on there and ends the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from relearn import parallel
from relearn.pipeline import making, measuring
from relearn.pipeline.state import Stage, State

BODIES: dict[str, Callable[[State], Stage | None]] = {
    "learn": making.learn,
    "neighbours": making.neighbours,
    "wordings": making.wordings,
    "before": measuring.before,
    "synthesis": making.synthesis,
    "alternates": making.alternates,
    "unlearn": making.unlearn,
    "after": measuring.after,
    "perplexity": measuring.perplexity,
    "scores": measuring.score,
    "report": measuring.report,
}
STAGES = tuple(BODIES)
# Stages in which all processes work; the others are the main one's alone.
SHARED = ("learn", "before", "unlearn", "after", "perplexity")


def do(state: State, name: str) -> None:
    """Do stage `name` unless it is done or the recipe has no use for it; what came after it is then done anew."""
    stage = BODIES[name](state)
    if stage is None or parallel.on_main(lambda: state.folder.is_done(name)):
        return
    with _begun(state, name, stage.outputs):
        stage.work() if name in SHARED else parallel.on_main(stage.work)


@contextmanager
def _begun(state: State, name: str, outputs: list[str]) -> Iterator[None]:
    """The main process writes down that the stage has begun, and at the end that it is done."""
    if not parallel.is_main():
        yield
        return
    later = STAGES[STAGES.index(name) + 1 :]
    known = state.folder.manifest["stages"]
    state.interrupted = known.get(name, {}).get("state") == "running"
    state.folder.update_manifest(stages={stage: entry for stage, entry in known.items() if stage not in later})
    with state.folder.stage(name, outputs):
        yield
