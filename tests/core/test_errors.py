"""Errors of other libraries and of the machine become one line with a way out."""

from __future__ import annotations

import errno
import os
import sqlite3

import pytest

from relearn.cli import run_command
from relearn.core import files
from relearn.core.errors import InputError, RelearnError, RunFailedError, loading, machine_error
from relearn.core.files import append_jsonl, replaced_dir, write_text


class OutOfMemoryError(RuntimeError):
    """Named as torch's error."""


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (disk_full(), RunFailedError, "the disk is full -> free some space"),
        (sqlite3.OperationalError("database or disk is full"), RunFailedError, "the disk is full -> "),
        (RuntimeError('IoError(message: "No space left on device")'), RunFailedError, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), InputError, "/x/y: no permission to read"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), InputError, "/x: no permission to read or write"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x/y"), InputError, "/x/y: not a directory -> "),
        (MemoryError(), RunFailedError, "not enough memory -> a smaller batch_size"),
        (OutOfMemoryError("CUDA out of memory. Tried"), RunFailedError, "not enough memory -> "),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            RunFailedError,
            "not enough memory -> ",
        ),
    ],
)
def test_errors_of_the_machine(error, kind, line):
    found = machine_error(error)
    assert type(found) is kind and str(found).startswith(line) and " -> " in str(found)


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shapes differ"), KeyError("a"), OSError("no errno")])
def test_other_errors_are_not_of_the_machine(error):
    assert machine_error(error) is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("unknown type `xyz`\nmore lines"), "cannot load it: unknown type `xyz` -> the way out"),
        (Exception("bad json"), "cannot load it: Exception: bad json -> the way out"),
        (KeyError("size"), "cannot load it: KeyError: 'size' -> the way out"),
        (RuntimeError(), "cannot load it: RuntimeError -> the way out"),
        (
            ImportError("GPTQ needs optimum (`pip install optimum`)"),
            "needs optimum (`pip install optimum`) -> pip install",
        ),
        (ImportError("install it with `pip install a>=0.1`."), " -> pip install a>=0.1"),
        (ModuleNotFoundError("No module named 'b'"), "cannot load it: No module named 'b' -> install the package"),
        (MemoryError(), "cannot load it: not enough memory -> a smaller"),
    ],
)
def test_loading_is_a_border(error, line):
    with pytest.raises(InputError) as caught, loading("it", where="place", way_out="the way out"):
        raise error
    assert str(caught.value).startswith("place: cannot load it: ") and line in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_own_errors_and_interrupts_pass_the_border():
    for error in (RunFailedError("own"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, loading("it", way_out="x"):
            raise error
        assert caught.value is error


@pytest.mark.parametrize("write", [write_text, lambda path, text: append_jsonl(path, {"text": text})])
def test_a_full_disk_is_one_line_with_the_file_and_leaves_nothing(tmp_path, monkeypatch, write):
    def full(*_args, **_options):
        raise disk_full()

    path = tmp_path / "scores.json"
    monkeypatch.setattr(files.os, "fdopen", full)
    with pytest.raises(RunFailedError, match=r"scores\.json: the disk is full -> free some space"):
        write(path, "x")
    assert not path.exists() or not path.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != path.name] == []


def test_a_folder_that_cannot_be_written_whole_is_not_there(tmp_path):
    with pytest.raises(RunFailedError, match="model: the disk is full"), replaced_dir(tmp_path / "model") as target:
        (target / "half").write_text("x")
        raise disk_full()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(disk_full(), 1), (MemoryError(), 1), (PermissionError(errno.EACCES, "Permission denied", "/x"), 2)],
)
def test_the_command_line_ends_with_one_line(monkeypatch, capsys, error, code):
    def failing(*_args, **_options):
        raise error

    monkeypatch.setattr("relearn.cli._take_plugins", failing)
    assert run_command(["doctor"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("relearn: ") and " -> " in lines[0]


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    def failing(*_args, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr("relearn.cli._take_plugins", failing)
    with pytest.raises(ZeroDivisionError):
        run_command(["doctor"])


def test_an_error_keeps_its_parts():
    error = RelearnError("is wrong", where="here", way_out="do this")
    assert (str(error), error.problem, error.way_out) == ("here: is wrong -> do this", "here: is wrong", "do this")
