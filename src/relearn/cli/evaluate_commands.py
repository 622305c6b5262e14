"""`relearn evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from relearn.cli.app import app, fail, show


@app.command
def evaluate(
    run: Path | None = None, *, forget: str | None = None, retain: str | None = None, holdout: str | None = None,
    after: str | None = None, before: str | None = None, base: str | None = None, after_adapter: tuple[str, ...] = (),
    before_adapter: tuple[str, ...] = (), map_: Annotated[str, Parameter(name="--map")] = "", metrics: str = "",
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (), out: Path = Path("runs/evaluation"),
) -> int:  # fmt: skip
    """Score two models, one model, files of answers, or an existing run once more. See docs/evaluate.md.

    The same command goes on with an evaluation that was stopped, and does nothing where all is done.

    Parameters
    ----------
    run
        A run folder, or an evaluation's: its answers are judged again and its report is written anew.
    forget
        Records that should be forgotten; without --after, a file that holds a model's answers to them.
    retain
        Records that should still be known, or a file that holds the answers.
    holdout
        Records like those to forget that no model was trained on, for membership inference.
    after
        The model to score: smollm2-135m-instruct, a folder, or a name on the hub.
    before
        The model to compare it with.
    base
        A model from before any fine-tuning: PPL and LS rest on it.
    after_adapter
        A LoRA adapter's folder for --after, or for --before where no --after is given; may be repeated.
    before_adapter
        A LoRA adapter's folder for --before; may be repeated.
    map_
        Which columns to read: question=text,answer=labels
    metrics
        Names with commas between: kfr,krr,rouge_l; all when not given.
    set_
        Change a setting: metrics.c1=0.5, generate.temperature=0.7, forget.limit=50, model.dtype=bfloat16 (all models)
    out
        The folder for answers, scores and report.
    """
    from relearn.core import distributed
    from relearn.core.console import note
    from relearn.workflows.evaluate.evaluation import evaluate as evaluate_all
    from relearn.workflows.evaluate.evaluation_config import read_columns

    try:
        folder = evaluate_all(
            run, out=out, changes=set_, forget=forget, retain=retain, holdout=holdout, after=after, before=before,
            base=base, after_adapter=after_adapter, before_adapter=before_adapter, columns=read_columns(map_),
            measure=tuple(filter(None, map(str.strip, metrics.split(",")))),
        )  # fmt: skip
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from here", 130)
    distributed.leave()
    if distributed.is_main():
        show(folder.path)
        for line in folder.manifest.get("notes", []):
            note(line)
    return 0
