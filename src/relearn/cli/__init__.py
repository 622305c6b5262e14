"""Parse the command line of `relearn`, load plug-ins and run the command.

The other modules of this package define the commands, one function each. A command imports its dependencies when it is
called, so that `relearn --help` takes a fraction of a second.

Exit codes: 0 success; 1 the run failed; 2 the input is wrong (one line, no traceback); 130 interrupted, can be resumed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cyclopts

from relearn.cli import evaluate_commands, folder_commands, run_commands
from relearn.cli.app import app, check_arguments, check_paths, fail, registries
from relearn.core.errors import InputError, RelearnError, machine_error

# Each module registers its commands with the application when it is imported.
COMMANDS = (run_commands, evaluate_commands, folder_commands)
# Commands that use the registries of methods, metrics or attacks; they import the installed plug-ins first.
WITH_REGISTRIES = (
    "analyze",
    "audit",
    "certify",
    "compare",
    "evaluate",
    "list",
    "plan",
    "report",
    "run",
    "ui",
    "unlearn",
)


def main() -> None:
    """Run the command in `sys.argv` and exit."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code; an error of relearn or of the arguments is printed in one line."""
    try:
        check_arguments(arguments)
        files, arguments = _take_plugins(arguments)
        _check_launch(arguments)
        _load_plugins(files, arguments)
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        check_paths(command.__name__, bound.arguments)
        result = command(*bound.args, **bound.kwargs)
        return result if isinstance(result, int) else 0
    except RelearnError as error:
        return fail(str(error), error.exit_code, shared=error.shared)
    except cyclopts.CycloptsError as error:
        way_out = "relearn --plugin FILE.py COMMAND" if "--plugin" in arguments else "see relearn --help"
        return fail(f"{' '.join(str(error).split())} -> {way_out}", 2)
    except KeyboardInterrupt:
        return fail("interrupted; the same command with --resume continues", 130)
    except BrokenPipeError:
        return 1
    except Exception as error:
        # A full disk, a missing permission or too little memory is no fault of the program; others show a traceback.
        known = machine_error(error)
        if known is None and isinstance(error, OSError):
            place = f"{error.filename}: " if error.filename else ""
            return fail(f"{place}{error.strerror or error}", 1)
        if known is None:
            raise
        return fail(str(known), known.exit_code, shared=False)


def _take_plugins(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Split `--plugin FILE` and `--plugin=FILE` before the command from the other arguments.

    Raises InputError where the file name is missing.
    """
    files = []
    while arguments and arguments[0].partition("=")[0] == "--plugin":
        _, _, file = arguments[0].partition("=")
        if "=" not in arguments[0]:
            arguments = arguments[1:]
            file = arguments[0] if arguments else ""
        if not file:
            raise InputError("names no file", where="--plugin", way_out="relearn --plugin FILE.py COMMAND")
        files.append(Path(file))
        arguments = arguments[1:]
    return files, arguments


def _check_launch(arguments: list[str]) -> None:
    """Raise InputError where a launcher started several processes for a command that needs a single process."""
    from relearn.core import distributed

    shared = arguments[:1] in (["run"], ["unlearn"], ["evaluate"]) and "--dry-run" not in arguments
    if distributed.launched() > 1 and not shared:
        error = InputError(
            "only `run`, `unlearn` and `evaluate` can use several processes", way_out="start this command without one"
        )
        raise distributed.everywhere(error)


def _load_plugins(files: list[Path], arguments: list[str]) -> None:
    """Import the plug-ins named on the command line and, for the commands in WITH_REGISTRIES, the installed ones."""
    needs_installed = arguments[:1] != [] and arguments[0] in WITH_REGISTRIES and "--help" not in arguments
    if not files and not needs_installed:
        return
    from relearn.core import plugins

    if needs_installed:
        plugins.load_installed(registries)
    for file in files:
        plugins.load_file(file, registries())
