"""Commands that do something with a finished run's folder: report, export, purge."""

from __future__ import annotations

from pathlib import Path

from relearn.cli.app import app, existing


@app.command
def report(folder: Path, *, redact: bool = False) -> None:
    """Write a run's report again.

    Parameters
    ----------
    folder
        A run folder.
    redact
        Hide every text of the records and answers.
    """
    from relearn.console import note
    from relearn.report.build import write_report
    from relearn.rundir import own_folder

    note(f"report: {write_report(own_folder(folder), redact=redact)}")


@app.command
def export(folder: Path, *, out: Path, merged: bool = False, answers: bool = False) -> None:
    """Merge a run's adapter into the model and save it in safetensors form, or write its answers for other tools.

    Parameters
    ----------
    folder
        A run folder; with --answers an evaluation's will do.
    out
        A new folder.
    merged
        The merged model: what is written anyway where --answers is not given.
    answers
        Not the model but the answers, as the public ReLearn code has them: query, ground_truth, generated_response.
    """
    from relearn.console import note
    from relearn.errors import InputError

    if answers and merged:
        raise InputError("either the model or the answers", where="--merged --answers", way_out="two calls")
    if answers:
        from relearn.evaluation.export import export_answers

        for path in export_answers(folder, out):
            note(f"answers: {path}")
        return
    from relearn.asking import export_merged

    export_merged(existing(folder), out)
    note(f"model: {out}")


@app.command
def purge(folder: Path, *, yes: bool = False) -> None:
    """Remove every text from a run folder; the adapter and the scores without texts stay, and what is not relearn's.

    Parameters
    ----------
    folder
        A run folder.
    yes
        Do it; without it, only say what would go.
    """
    from relearn.console import note, visible
    from relearn.purge import left_alone
    from relearn.purge import purge as purge_folder

    for name in purge_folder(folder, really=yes):
        note(f"{'removed' if yes else 'would remove'} {name}")
    for name in left_alone(folder):
        note(f"left alone: {visible(name)}")
    if not yes:
        note("nothing was removed; add --yes")
