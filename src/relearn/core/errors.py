"""Every error a user can meet, under one root.

Rules: an `InputError` is for the user to mend (exit code 2), all else is a run that failed
(exit code 1). The text is one line: what, where, which value, the way out. Private answers never go into it.
"""

from __future__ import annotations


class RelearnError(Exception):
    """Root of all errors raised on purpose; `exit_code` is what the command line ends with.

    `shared`: raised in every process of a run alike, so that the main one alone has to say it.
    """

    exit_code = 1
    shared = False

    def __init__(self, what: str, *, where: str | None = None, way_out: str | None = None):
        line = f"{where}: {what}" if where else what
        if way_out:
            line = f"{line} -> {way_out}"
        super().__init__(" ".join(line.split()))


class InputError(RelearnError):
    """Something the user gave is wrong: a file, a field, a recipe key, a model name."""

    exit_code = 2


class MissingPartError(InputError):
    """An optional part (a package, a model) is needed and not there."""


class RunFailedError(RelearnError):
    """The run itself failed: a generator that stopped answering, a loss that became NaN."""


class GeneratorError(RunFailedError):
    """A generator cannot answer; what it had answered is kept and a later run goes on from there."""


class BudgetError(RunFailedError):
    """The budget of calls or tokens set in the recipe is used up."""
