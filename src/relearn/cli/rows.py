"""Commands that make and check training rows: synthesize, verify."""

from __future__ import annotations

from pathlib import Path

from relearn.cli.app import app


@app.command
def synthesize(
    *, forget: Path, out: Path, generator: str = "templates", generic: Path | None = None, seed: int = 0,
    allow_remote: bool = False, max_calls: int | None = None,
) -> None:  # fmt: skip
    """Write the new answers for a forget set, without touching a model.

    Parameters
    ----------
    forget
        The records to forget.
    out
        A folder for synthesis.jsonl, rejected.jsonl and the answer cache; asked again, nothing is paid twice.
    generator
        templates, openai:MODEL or transformers:MODEL.
    generic
        Generic rows to mix in; the built-in ones when not given.
    allow_remote
        Let questions about the forget set go to another host.
    max_calls
        Stop before more calls than this.
    """
    from relearn.core.config import Synthesis
    from relearn.workflows.run.pipeline import synthesize as write_answers

    settings = Synthesis(generator=generator, allow_remote=allow_remote, max_calls=max_calls)
    counts = write_answers(forget, out, settings, generic=generic, seed=seed)
    _print_counts(counts)


def _print_counts(counts) -> None:
    from relearn.core.console import note

    for name, value in counts.items():
        note(f"{name}: {value}")


@app.command
def verify(file: Path, *, against: Path, out: Path, strict: bool = False) -> int:
    """Look for the secrets of a forget set in any file of training rows.

    Parameters
    ----------
    file
        Rows to check: JSONL, JSON, CSV or Parquet.
    against
        The forget set.
    out
        One JSON line per flagged row.
    strict
        Exit with 1 when anything is flagged.
    """
    from relearn.core.console import note
    from relearn.synthesis.verification import verify_file

    found = verify_file(file, against, out)
    note(f"{found.flagged} of {found.rows} rows flagged: {out}")
    for kind, count in sorted(found.by_kind.items(), key=lambda entry: -entry[1]):
        note(f"  {kind:<10}{count}")
    return 1 if strict and found.flagged else 0
