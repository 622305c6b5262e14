"""Define the errors that are raised on purpose.

InputError: the user has to change the input (exit code 2). All others: a run failed (exit code 1). A message is one
line: place, problem, value, way out. Private answers are never part of it.
"""

from __future__ import annotations


class RelearnError(Exception):
    """Base of all errors raised on purpose. `exit_code`: of the command line.

    `shared`: every process of a run raises the same error, so only the main one prints it.
    """

    exit_code = 1
    shared = False

    def __init__(self, what: str, *, where: str | None = None, way_out: str | None = None):
        line = f"{where}: {what}" if where else what
        if way_out:
            line = f"{line} -> {way_out}"
        super().__init__(" ".join(line.split()))


class InputError(RelearnError):
    """Wrong input: a file, a field, a recipe key, a model name."""

    exit_code = 2


class MissingPartError(InputError):
    """A package or a model that is not installed."""


class RunFailedError(RelearnError):
    """A failed run: a generator that stopped answering, a loss that became NaN."""


class GeneratorError(RunFailedError):
    """A generator that cannot answer; its earlier answers stay in the cache for the next run."""


class BudgetError(RunFailedError):
    """The limit of calls or tokens in the recipe is reached."""
