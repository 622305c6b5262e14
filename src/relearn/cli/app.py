"""The application that commands register with, and what several of them need."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from relearn.core.version import __version__

app = App(
    name="relearn",
    version=__version__,
    help="Make a language model forget, and show that it did.",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)

Set = Annotated[tuple[str, ...], Parameter(name="--set", help="Change a key of the recipe: unlearn.epochs=2")]


def fail(text: str, code: int, *, shared: bool = True) -> int:
    """Say what went wrong; what went wrong in all processes alike is said by the main one."""
    from relearn.core import distributed

    if distributed.is_main():
        print(f"relearn: {text}", file=sys.stderr)
    elif not shared:
        print(f"relearn: process {distributed.rank()}: {text}", file=sys.stderr)
    return code


def existing(folder: Path) -> Path:
    from relearn.core.run_dir import RunFolder

    return RunFolder.existing(folder).path


def show(folder: Path) -> None:
    from relearn.core.console import note
    from relearn.report.labels import print_summary

    print_summary(folder)
    note(f"report: {folder / 'report.html'}")
