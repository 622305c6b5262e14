"""Commands that put questions to a run's model: ask, generate."""

from __future__ import annotations

from pathlib import Path

from relearn.cli.app import app
from relearn.core.errors import InputError


@app.command
def ask(folder: Path, *question: str) -> None:
    """Ask a run's model before and after, side by side.

    Parameters
    ----------
    folder
        A run folder.
    question
        The question; several may be given, each in quotes.
    """
    from relearn.workflows.ask import answers_before_and_after, print_side_by_side

    if not question:
        raise InputError("no question given", way_out='relearn ask RUN "Where does X live?"')
    print_side_by_side(answers_before_and_after(folder, list(question)))


@app.command
def generate(folder: Path, *, out: Path | None = None, questions: Path) -> None:
    """Ask a run's model a file of questions, before and after; one JSON line each.

    Parameters
    ----------
    folder
        A run folder.
    questions
        A file of records: JSONL, JSON, CSV or Parquet.
    out
        Where to write; the screen when not given.
    """
    from relearn.core.config import Source
    from relearn.core.console import out as screen
    from relearn.core.run_dir import write_jsonl
    from relearn.data.validation import load_set
    from relearn.workflows.ask import answers_before_and_after

    records, _ = load_set((Source(path=str(questions)),), "forget", str(questions))
    rows = answers_before_and_after(folder, [record.question for record in records])
    if out:
        write_jsonl(out, rows)
    else:
        for row in rows:
            screen.print_json(data=row)
