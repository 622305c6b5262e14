"""Define the command-line application, with which commands are registered, and helpers of several commands."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter, Token, validators

from relearn.core import __version__
from relearn.core.errors import InputError
from relearn.core.files import check_output, check_path
from relearn.core.registry import Registry

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


def _whole_number(_: Any, tokens: Sequence[Token]) -> int:
    """Convert an argument; without this converter, cyclopts rounds 1.5."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f'"{tokens[0].value}" is not a whole number') from None


# Types of options that several commands have.
Count = Annotated[int, Parameter(converter=_whole_number, validator=validators.Number(gte=1))]
Set = Annotated[tuple[str, ...], Parameter(name="--set", help="Change a key of the recipe: unlearn.epochs=2")]

Trust = Annotated[
    bool,
    Parameter(
        name="--trust-remote-code",
        help="Run code from the repositories of the models. The recipe in a run folder never switches this on.",
    ),
]


# Options whose value may be an empty text; commands that write a file to `--out`, not a folder.
MAY_BE_EMPTY = ("--methods", "--metrics", "--map")
WRITE_A_FILE = ("generate", "human", "verify")
# Arguments of type text that name a file, a folder or a model.
NAMES = (
    "after",
    "after_adapter",
    "base",
    "before",
    "before_adapter",
    "control",
    "forget",
    "holdout",
    "model",
    "retain",
)


def check_arguments(arguments: list[str]) -> None:
    """Raise InputError for an argument that is empty, which would be read as the current folder, or not UTF-8."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise InputError(
                "is not UTF-8", where=f"argument {argument!r}", way_out="give it, or the file, another name"
            )
        option, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
        if equals and not value.strip() and option not in MAY_BE_EMPTY:
            where = option if option.startswith("--") else "an argument"
            raise InputError("is empty", where=where, way_out="give a value, or leave it out")


def check_paths(command: str, arguments: Mapping[str, Any]) -> None:
    """Raise InputError for an argument of a command that cannot be a path, and for an output that cannot be written."""
    for name, given in arguments.items():
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, Path) or (name in NAMES and value is not None):
                try:
                    check_path(str(value))
                except ValueError as error:
                    raise InputError(str(error), where=f"{name.replace('_', '-')} {value}") from None
            if name in ("out", "results") and value is not None:
                check_output(value, is_file=command in WRITE_A_FILE)


def fail(text: str, code: int, *, shared: bool = True) -> int:
    """Print an error and return the exit code `code`; a `shared` error is printed by the main process only."""
    from relearn.core import distributed
    from relearn.core.console import visible

    if distributed.is_main():
        print(f"relearn: {visible(text)}", file=sys.stderr)
    elif not shared:
        print(f"relearn: process {distributed.rank()}: {visible(text)}", file=sys.stderr)
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
