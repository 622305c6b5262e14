"""Print progress bars and notes to stderr, tables to stdout. In a distributed run only the main process prints."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from relearn.core import distributed

# Without emoji, an answer such as "id:m:7" is shown as it is.
out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)

# Maps control characters, except new line and tab, to visible characters.
_CONTROL_PICTURES = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}


def visible(text: str) -> str:
    """Replace control characters, which could change the terminal, with visible characters."""
    return text.replace("\r\n", "\n").translate(_CONTROL_PICTURES)


class Ticker(Protocol):
    """Report the progress of a stage: `done` of `total` steps."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


def quiet(done: int, total: int | None = None) -> None:
    """Ignore progress."""


def note(text: str) -> None:
    """Print a line to stderr."""
    if distributed.is_main():
        err.print(text, markup=False, soft_wrap=True)


@contextmanager
def stage(title: str, total: int | None = None) -> Iterator[Ticker]:
    """Show a progress bar on a terminal, two plain lines elsewhere; yield the callback that updates the bar."""
    began = time.monotonic()
    if not distributed.is_main():
        yield quiet
    elif sys.stderr.isatty() and not os.environ.get("CI"):
        columns = (
            TextColumn("{task.description:<34}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=err) as bars:
            task = bars.add_task(title, total=total)

            def tick(done: int, total: int | None = None) -> None:
                if total is None:
                    bars.update(task, completed=done)
                else:
                    bars.update(task, completed=done, total=total)

            yield tick
    else:
        note(f"{title} ...")
        yield quiet
        note(f"{title}: done in {time.monotonic() - began:.1f} s")
