"""Define the command-line application, with which commands are registered, and helpers of several commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from relearn.core.registry import Registry
from relearn.core.version import __version__

app = App(
    name="relearn",
    version=__version__,
    help="""Make a language model forget chosen facts, and measure that it did.

    Methods, metrics and attacks of your own: `relearn --plugin FILE.py COMMAND ...` imports the file first (may be
    repeated). See docs/plugins.md.
    """,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)

Set = Annotated[tuple[str, ...], Parameter(name="--set", help="Change a key of the recipe: unlearn.epochs=2")]


def fail(text: str, code: int, *, shared: bool = True) -> int:
    """Print an error and return the exit code `code`; a `shared` error is printed by the main process only."""
    from relearn.core import distributed

    if distributed.is_main():
        print(f"relearn: {text}", file=sys.stderr)
    elif not shared:
        print(f"relearn: process {distributed.rank()}: {text}", file=sys.stderr)
    return code


def registries() -> tuple[Registry[Any], ...]:
    """Import and return all registries that a plug-in may add to."""
    from relearn.audits.attack import AUDITS
    from relearn.llm.generators import GENERATORS
    from relearn.metrics.metric import METRICS
    from relearn.unlearning.masks.mask import MASKS
    from relearn.unlearning.method import METHODS
    from relearn.unlearning.procedures import PROCEDURES

    return METHODS, METRICS, AUDITS, GENERATORS, MASKS, PROCEDURES


def show(folder: Path) -> None:
    """Print the summary of a run and the path of its report."""
    from relearn.core.console import note
    from relearn.report.labels import print_summary

    print_summary(folder)
    note(f"report: {folder / 'report.html'}")
