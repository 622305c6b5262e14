"""Commands that put questions to a run's model: ask, generate."""

from __future__ import annotations

from pathlib import Path

from relearn.cli.app import app
from relearn.errors import InputError


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
    from relearn.asking import answers_before_and_after, print_side_by_side

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
    from relearn.asking import answers_before_and_after, recipe_of
    from relearn.config import Source
    from relearn.console import out as screen
    from relearn.provenance import read_paths
    from relearn.records.checks import load_set
    from relearn.rundir import refuse_overwrite, write_jsonl

    refuse_overwrite([out] if out else [], (questions, folder, *read_paths(recipe_of(folder))))
    records, _ = load_set((Source(path=str(questions)),), "forget", str(questions))
    rows = answers_before_and_after(folder, [record.question for record in records])
    if out:
        write_jsonl(out, rows)
    else:
        for row in rows:
            screen.print_json(data=row)
