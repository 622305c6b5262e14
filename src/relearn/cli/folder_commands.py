"""Commands that do something with a finished run's folder: report, export, purge.

`relearn ui`.

Commands that tell what there is: list, doctor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

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
    from relearn.core.console import note
    from relearn.core.ownership import own_folder
    from relearn.report.build import write_report

    note(f"report: {write_report(own_folder(folder).path, redact=redact)}")


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
    from relearn.core.console import note
    from relearn.core.errors import InputError

    if answers and merged:
        raise InputError("either the model or the answers", where="--merged --answers", way_out="two calls")
    if answers:
        from relearn.workflows.evaluate.evaluation import export_answers

        for path in export_answers(folder, out):
            note(f"answers: {path}")
        return
    from relearn.workflows.ask import export_merged

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
    from relearn.core.console import note, visible
    from relearn.core.ownership import left_alone
    from relearn.core.ownership import purge as purge_folder

    for name in purge_folder(folder, really=yes):
        note(f"{'removed' if yes else 'would remove'} {name}")
    for name in left_alone(folder):
        note(f"left alone: {visible(name)}")
    if not yes:
        note("nothing was removed; add --yes")


@app.command
def ui(folder: Path, *others: Path, port: int = 0, no_browser: bool = False) -> int:
    """Open a local page: ask runs before and after, look inside an answer, browse facts by verdict, compare numbers.

    It answers on 127.0.0.1 alone, to the address that is printed. No model is loaded before you press Load.

    Parameters
    ----------
    folder
        A run folder.
    others
        Further runs, each with an answer and numbers of its own.
    port
        The port; a free one when not given.
    no_browser
        Print the address and open nothing.
    """
    from relearn.ui.server import serve

    try:
        serve([folder, *others], port, browser=not no_browser)
    except KeyboardInterrupt:
        return 130
    return 0


@app.command(name="list")
def list_(what: Literal["methods", "metrics", "audits", "generators", "benchmarks"], *, json: bool = False) -> None:
    """What there is to choose from.

    Parameters
    ----------
    what
        methods, metrics, audits, generators or benchmarks (shapes of files that are read as they are).
    json
        Print JSON.
    """
    from relearn.cli.listing import print_listing

    print_listing(what, as_json=json)


@app.command
def doctor(*, judge: str | None = None) -> int:
    """Say what is there, what is missing and how to get it; or whether a judge can be trusted.

    Parameters
    ----------
    judge
        openai:MODEL or transformers:MODEL: let it grade ten answers that were graded by hand; exit code 1 if it is not
        usable. They are of invented people.
    """
    if judge is not None:
        return _check_judge(judge)
    from relearn.cli.doctor import checks, render

    render(checks())
    return 0


def _check_judge(name: str) -> int:
    from relearn.core.config import Metrics
    from relearn.core.console import out as screen
    from relearn.metrics.llm_judge import NamedGrader, judge_check

    found = judge_check(NamedGrader(Metrics(judge=name, allow_remote=True)))
    for line in found.lines():
        screen.print(line, markup=False, soft_wrap=True)
    return 0 if found.usable else 1
