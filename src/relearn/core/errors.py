"""Define the errors that relearn raises.

InputError: the user has to change the input (exit code 2). All others: a run failed (exit code 1). A message is one
line: place, problem, value, and how to solve it. It never contains a private answer. `loading` and `machine_error`
convert errors of other libraries and of the machine.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

# What libraries write where the disk is full (safetensors, sqlite) or memory ran out (torch on a CPU and a GPU).
_FULL = ("No space left on device", "disk is full")
_NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory", "Cannot allocate memory")


class RelearnError(Exception):
    """Report a problem in one line: `where`: `what` -> `way_out`. Base class of all errors of relearn.

    `exit_code`: exit code of the command line. `shared`: every process of a distributed run raises the same error, so
    only the main process prints it.
    """

    exit_code = 1
    shared = False

    def __init__(self, what: str, *, where: str | None = None, way_out: str | None = None):
        line = f"{_shortened(where, 200)}: {_shortened(what)}" if where else _shortened(what)
        self.problem, self.way_out = line, way_out
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


@contextmanager
def loading(what: str, *, where: str | None = None, way_out: str) -> Iterator[None]:
    """Convert every error of another library, while it loads `what`, to an InputError of one line.

    `way_out`: what to do where the error itself does not tell.
    """
    try:
        yield
    except RelearnError:
        raise
    except Exception as error:
        known = machine_error(error)
        if known is not None:
            problem, better = known.problem, known.way_out
        else:
            problem, better = _first_line(error), _package_to_install(error)
        raise InputError(f"cannot load {what}: {problem}", where=where, way_out=better or way_out) from None


def machine_error(error: BaseException, where: str | None = None) -> RelearnError | None:
    """Convert an error of disk, file system or memory to one line; return None for any other error.

    `where`: the file or folder, if the error does not name it.
    """
    text, number = str(error), getattr(error, "errno", None)
    name = getattr(error, "filename", None)
    where = where or (str(name) if name else None)
    if number in (errno.ENOSPC, errno.EDQUOT) or any(part in text for part in _FULL):
        return RunFailedError(
            "the disk is full",
            where=where,
            way_out="free some space; a run continues with the same command and --resume",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        way_out = "change the permissions, or name another place"
        return InputError("no permission to read or write it", where=where, way_out=way_out)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _is_memory(error, text):
        return RunFailedError(
            "not enough memory",
            where=where,
            way_out="a smaller batch_size, max_length or model, model.dtype: bfloat16, or a larger machine",
        )
    if isinstance(error, OSError) and error.strerror and where:
        return InputError(error.strerror.lower(), where=where, way_out="check this path")
    return None


def _is_memory(error: BaseException, text: str) -> bool:
    return isinstance(error, RuntimeError) and any(part in text for part in _NO_MEMORY)


def _first_line(error: BaseException) -> str:
    """Return the first line of a message (two after a colon), with the error's name where this says more."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()] or [""]
    line = " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:200]
    plain = isinstance(error, OSError | ValueError | ImportError) and line
    return line if plain else f"{type(error).__name__}: {line}".rstrip(": ")


def _package_to_install(error: BaseException) -> str | None:
    """Return the command that a missing package's error names, such as pip install optimum."""
    if not isinstance(error, ImportError):
        return None
    command = re.search(r"pip install [^`)\n]+", str(error))
    return command[0].strip().rstrip(".") if command else "install the package"
