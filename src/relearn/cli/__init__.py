"""The command line: one command per stage. Bodies import what they need, so --help is instant.

Exit codes: 0 done; 1 the run failed; 2 the input is wrong (one line, no traceback); 130 interrupted, resumable.
"""

from __future__ import annotations

import sys

import cyclopts

from relearn.cli import evaluate_commands, folder_commands, run_commands
from relearn.cli.app import app, fail
from relearn.core.errors import InputError, RelearnError

# Each registers its commands with the application when it is imported.
COMMANDS = (run_commands, evaluate_commands, folder_commands)


def main() -> None:
    """Entry point of the `relearn` command."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors the user can meet end in one line."""
    try:
        _check_launch(arguments)
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else 0
    except RelearnError as error:
        return fail(str(error), error.exit_code, shared=error.shared)
    except cyclopts.CycloptsError as error:
        return fail(f"{' '.join(str(error).split())} -> see relearn --help", 2)
    except KeyboardInterrupt:
        return fail("interrupted; the same command with --resume goes on from here", 130)
    except BrokenPipeError:
        return 1


def _check_launch(arguments: list[str]) -> None:
    from relearn.core import distributed

    shared = arguments[:1] in (["run"], ["unlearn"], ["evaluate"]) and "--dry-run" not in arguments
    if distributed.launched() > 1 and not shared:
        error = InputError(
            "several processes can share `run`, `unlearn` and `evaluate` alone", way_out="start this one alone"
        )
        raise distributed.everywhere(error)
