"""The run folder: files that are whole or absent, private to their owner, and a manifest of what is done.

Every file is written under another name and renamed into place, so a process killed at any moment leaves either the old
file or the new one. All files are created 0600, folders 0700: they hold the very texts a model is to forget. Of several
processes at work on a run the main one alone writes; what the others hand in is dropped.

Take every text out of a run folder: what is left may be kept or handed on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from relearn.core import distributed
from relearn.core.errors import InputError


def make_private_dir(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all, readable by the owner alone."""
    if not distributed.is_main():
        return
    make_private_dir(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Add one line; a torn last line, left by a killed process, is closed first and ignored by `read_jsonl`."""
    if not distributed.is_main():
        return
    make_private_dir(path.parent)
    flags = os.O_RDWR | os.O_CREAT
    with os.fdopen(os.open(path, flags, 0o600), "rb+") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"not JSON: {error}", where=str(path)) from None


def read_jsonl(path: Path, *, torn: bool = False) -> list[dict[str, Any]]:
    """All rows. With `torn`, lines that are not JSON (a killed writer's) are left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            if not torn:
                raise InputError("not JSON lines", where=str(path)) from None
    return rows


def file_hash(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def replaced_dir(path: Path) -> Iterator[Path]:
    """A folder to fill that takes the name `path` only once it is complete."""
    if not distributed.is_main():
        with tempfile.TemporaryDirectory() as dropped:
            yield Path(dropped)
        return
    make_private_dir(path.parent)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        make_tree_private(temporary)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_tree(path: Path) -> None:
    """Remove a folder, if it is there, once no process needs it any more."""
    distributed.barrier()
    if distributed.is_main():
        shutil.rmtree(path, ignore_errors=True)


def make_tree_private(path: Path) -> None:
    for entry in [path, *path.rglob("*")]:
        entry.chmod(0o700 if entry.is_dir() else 0o600)


def existing_run(path: Path, needed: str = "manifest.json") -> Path:
    """`path` when it is a run folder that holds the file `needed`, else an InputError."""
    if not (path / needed).exists():
        raise InputError("no run there", where=str(path), way_out="give a run folder, such as runs/demo")
    return path


class RunDir:
    """One run's folder. `stage` runs a piece of work once: a stage is done only when its outputs are in place."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def manifest(self) -> dict[str, Any]:
        path = self / "manifest.json"
        return read_json(path) if path.exists() else {"stages": {}}

    def update_manifest(self, **values: Any) -> None:
        write_json(self / "manifest.json", {**self.manifest, **values})

    def is_done(self, stage: str) -> bool:
        entry = self.manifest["stages"].get(stage, {})
        return entry.get("state") == "done" and all((self / name).exists() for name in entry.get("outputs", []))

    @contextmanager
    def stage(self, name: str, outputs: list[str]) -> Iterator[None]:
        """Mark `name` running, and done with its time once the body has returned and every output is there."""
        began = time.time()
        self._mark(name, state="running", started=began, outputs=outputs)
        yield
        missing = [output for output in outputs if not (self / output).exists()]
        if missing:
            raise RuntimeError(f"stage {name} ended without {missing}")
        self._mark(name, state="done", started=began, seconds=round(time.time() - began, 2), outputs=outputs)

    def _mark(self, name: str, **entry: Any) -> None:
        self.update_manifest(stages={**self.manifest["stages"], name: entry})

    def log(self, **row: Any) -> None:
        append_jsonl(self / "log.jsonl", {"time": round(time.time(), 3), **row})

    def clear_leftovers(self) -> None:
        """Remove what a killed process left half-written."""
        if not self.path.exists():
            return
        for entry in self.path.rglob(".*"):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


# The start adapter knows the secrets: it goes too. The unlearned result and numbers stay.
KEPT = ("adapter", "model", "offset", "eco", "manifest.json", "summary.json", "scores.json")


def purge(folder: Path, *, really: bool) -> list[str]:
    """Names of what holds texts; removed when `really`. scores.json is rewritten without its texts."""
    going = sorted(entry for entry in folder.iterdir() if entry.name not in KEPT)
    if really:
        for entry in going:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        scores = folder / "scores.json"
        if scores.exists():
            write_json(scores, _without_texts(read_json(scores)))
    return [entry.name for entry in going]


def _without_texts(value: Any) -> Any:
    """The same numbers without the entities of references and answers."""
    if isinstance(value, dict):
        return {
            key: _without_texts(part) for key, part in value.items() if key not in ("reference_entities", "matched")
        }
    return value
