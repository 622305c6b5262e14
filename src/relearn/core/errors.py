"""Define the errors that relearn raises.

InputError: the user has to change the input (exit code 2). All others: a run failed (exit code 1). A message is one
line: place, problem, value, and how to solve it. It never contains a private answer.
"""

from __future__ import annotations


class RelearnError(Exception):
    """Report a problem in one line: `where`: `what` -> `way_out`. Base class of all errors of relearn.

    `exit_code`: exit code of the command line. `shared`: every process of a distributed run raises the same error, so
    only the main process prints it.
    """

    exit_code = 1
    shared = False

    def __init__(self, what: str, *, where: str | None = None, way_out: str | None = None):
        line = f"{_shortened(where, 200)}: {_shortened(what)}" if where else _shortened(what)
        if way_out:
            line = f"{line} -> {_shortened(way_out)}"
        super().__init__(" ".join(line.split()))


def _shortened(text: str, length: int = 800) -> str:
    """Leave out the middle of a text that is too long for a line, such as a path of thousands of characters."""
    return text if len(text) <= length else f"{text[: length // 2]} ... {text[-length // 4 :]}"


class InputError(RelearnError):
    """Report wrong input: a file, a field, a recipe key, a model name."""

    exit_code = 2


class MissingPartError(InputError):
    """Report a package or a model that is not installed."""


class RunFailedError(RelearnError):
    """Report a failed run, such as a generator that stopped answering or a loss that became NaN."""


class GeneratorError(RunFailedError):
    """Report a generator that cannot answer; its earlier answers stay in the cache for the next run."""


class BudgetError(RunFailedError):
    """Report that the maximum number of calls or tokens in the recipe is reached."""
