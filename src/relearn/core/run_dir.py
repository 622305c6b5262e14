"""The run folder: files that are whole or absent, private to their owner, and a manifest of what is done.

Every file is written under another name and renamed into place, so a process killed at any moment leaves either the old
file or the new one. All files are created 0600, folders 0700: they hold the very texts a model is to forget. Of several
processes at work on a run the main one alone writes; what the others hand in is dropped.

A folder is relearn's when its manifest.json says so, and in it only what stands in `OUTPUTS` is ever overwritten or
removed. Everything else is somebody's own and stays. Nothing is written or removed through a symbolic link.

Take every text out of a run folder: what is left may be kept or handed on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from relearn import __version__
from relearn.core import distributed
from relearn.core.errors import InputError, RelearnError

FORMAT = 1
# Of every manifest that is written from now on.
MARKER = {"relearn": {"format": FORMAT, "version": __version__}}

# What a folder that is replaced as a whole (adapter/, model/, tuned_lens/, ...) may hold.
SAVED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "offset.json",
    "eco.json",
    "fit.json",
    "score.json",
)
_ASKED = ("forget", "retain", "wordings", "probes_forget", "probes_retain", "holdout", "real_authors", "world_facts")
# All that any command writes into a folder of its own; "/" at the end: everything in there.
OUTPUTS = (
    "manifest.json",
    "recipe.yaml",
    "evaluation.yaml",
    "lock",
    "log.jsonl",
    "cache.sqlite",
    "cache.sqlite-wal",
    "cache.sqlite-shm",
    "cache.sqlite-journal",
    "synthesis.jsonl",
    "rejected.jsonl",
    "alternates.jsonl",
    "rejected_alternates.jsonl",
    "neighbours.jsonl",
    "wordings.jsonl",
    "trajectory.jsonl",
    "selection.json",
    "summary.json",
    "scores.json",
    "report.json",
    "report.html",
    "model_card.md",
    *(f"{when}/{name}.jsonl" for when in ("before", "after") for name in _ASKED),
    "before/ability.json",
    "after/ability.json",
    "audits/*.json",
    "audits/answers/*.jsonl",
    "audits/checkpoints/",
    "audits/gguf_????????/",
    "analysis/*.json",
    "analysis/*.svg",
    "checkpoints/",
    *(
        f"{folder}/{name}"
        for folder in ("start", "adapter", "model", "offset", "eco", "analysis/tuned_lens")
        for name in SAVED
    ),
)
_PATTERNS = [tuple(pattern.split("/")) for pattern in OUTPUTS]
# A half-written output; those of version 0.1 had no ending.
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}(?:\.relearn-tmp)?")
_ENDING = ".relearn-tmp"


def make_private_dir(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all, readable by the owner alone."""
    if not distributed.is_main():
        return
    make_private_dir(path.parent)
    handle, temporary = tempfile.mkstemp(_ENDING, f".{path.name}.", path.parent)
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
    temporary = Path(tempfile.mkdtemp(_ENDING, f".{path.name}.", path.parent))
    try:
        yield temporary
        make_tree_private(temporary)
        _put_in_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _put_in_place(made: Path, path: Path) -> None:
    """Give a finished folder its name; what somebody else put into the one before stays there."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError("is no folder that can be replaced", where=str(path), way_out="move it away")
    if path.exists():
        for entry in list(path.iterdir()):
            if (made / entry.name).exists() or any(fnmatchcase(entry.name, pattern) for pattern in SAVED):
                _remove(entry)
    if not path.exists() or not any(path.iterdir()):
        os.replace(made, path)
        return
    for entry in list(made.iterdir()):
        os.replace(entry, path / entry.name)
    made.rmdir()


def remove_tree(path: Path) -> None:
    """Remove a folder, if it is there, once no process needs it any more."""
    distributed.barrier()
    if distributed.is_main():
        shutil.rmtree(path, ignore_errors=True)


def make_tree_private(path: Path) -> None:
    for entry in [path, *path.rglob("*")]:
        entry.chmod(0o700 if entry.is_dir() else 0o600)


def existing_run(path: Path, needed: str = "manifest.json") -> Path:
    """Return `path` when it is a run folder that holds the file `needed`, else raise an InputError."""
    if not (path / needed).exists():
        raise InputError("no run there", where=str(path), way_out="give a run folder, such as runs/demo")
    return path


def own_folder(path: Path, needed: str = "manifest.json", *, links: bool = False) -> Path:
    """Return `path` when it is a folder of relearn's that may be written to, else raise an InputError.

    With `links` its outputs may be symbolic links.
    """
    if not is_ours(existing_run(path, needed)):
        raise InputError(
            "is not a folder that relearn made: its manifest.json does not say so",
            where=str(path),
            way_out="give a run folder, such as runs/demo",
        )
    if not links:
        check_links(path)
    return path


def is_ours(path: Path) -> bool:
    """Tell whether relearn made a folder: its manifest is marked, or is one of version 0.1, which marked none.

    Raises InputError for a folder of a later format.
    """
    manifest = _manifest(path)
    marker = manifest.get("relearn")
    if isinstance(marker, dict) and isinstance(marker.get("format"), int):
        if marker["format"] > FORMAT:
            raise InputError(
                f"was made by relearn {marker.get('version')}, which writes folders in another way",
                where=str(path),
                way_out="update relearn, or choose another folder",
            )
        return True
    if not isinstance(manifest.get("stages"), dict):
        return False
    versions = manifest.get("versions")
    # A purged folder has no settings left.
    return _has_settings(path) or (isinstance(versions, dict) and "relearn" in versions)


def _manifest(path: Path) -> dict[str, Any]:
    """What a folder's manifest.json says; nothing where there is none, it is a link, or is something else."""
    file = path / "manifest.json"
    try:
        found = {} if file.is_symlink() else json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _has_settings(path: Path) -> bool:
    from relearn.core.config import Recipe
    from relearn.core.yaml_config import read_mapping

    try:
        if (path / "evaluation.yaml").exists():
            return "forget" in read_mapping(path / "evaluation.yaml")
        return bool(Recipe.from_yaml(path / "recipe.yaml"))
    except RelearnError:
        return False


def is_new(path: Path, settings: str | None = None) -> bool:
    """Tell whether a folder is not there, or holds nothing but what a process leaves that is killed as it begins.

    That is its lock, half-written files and a manifest without a stage; a file `settings` may be there too.
    """
    if not os.path.lexists(path):
        return True
    if not path.is_dir():
        return False
    for entry, sort in _look(path):
        own = entry.parent == path and not entry.is_symlink() and entry.is_file()
        if own and entry.name == "manifest.json":
            own = set(found := _manifest(path)) == {"stages", *MARKER} and not found["stages"]
        elif own:
            own = entry.name == settings or (entry.name == "lock" and entry.stat().st_size == 0)
        if not own and sort != "leftover":
            return False
    return True


def check_links(path: Path) -> None:
    """Raise an InputError where one of the outputs in a folder is a symbolic link."""
    for entry in outputs_in(path):
        if entry.is_symlink():
            raise InputError(
                "is a symbolic link, and nothing is written through one",
                where=str(entry),
                way_out="choose another folder, or put there what it points to",
            )


def is_output(name: Path | str) -> bool:
    """Tell whether a path, relative to a folder of relearn's, is one of `OUTPUTS` or leads to some."""
    return bool(parts := Path(name).parts) and _place(parts) is not None


def _place(parts: tuple[str, ...]) -> Literal["file", "folder", "whole"] | None:
    """What `OUTPUTS` says of a relative path: an output, a folder that holds some, or one that is all output."""
    for pattern in _PATTERNS:
        if len(parts) > len(pattern) or not all(map(fnmatchcase, parts, pattern)):
            continue
        if pattern[len(parts) :] in ((), ("",)):
            return "whole" if pattern[len(parts) :] else "file"
        return "folder"
    return None


def _look(path: Path, under: tuple[str, ...] = ()) -> Iterator[tuple[Path, Literal["output", "leftover", "foreign"]]]:
    """Everything in a folder, in order: outputs, half-written ones, and what is not relearn's. Follows no link."""
    for entry in sorted(path.joinpath(*under).iterdir()):
        here = (*under, entry.name)
        place = _place(here)
        folder = entry.is_dir() and not entry.is_symlink()
        if is_leftover(entry.name, under):
            yield entry, "leftover"
        elif place == "folder" and folder:
            yield from _look(path, here)
        elif (place and entry.is_symlink()) or place == ("whole" if folder else "file"):
            yield entry, "output"
        else:
            yield entry, "foreign"


def is_leftover(name: str, under: tuple[str, ...] | None = None) -> bool:
    """Tell whether a name is that of a half-written file; with `under`, of an output in this folder of a run."""
    half = _LEFTOVER.fullmatch(name)
    return half is not None and (under is None or _place((*under, half["name"])) is not None)


def outputs_in(path: Path, *tops: str) -> list[Path]:
    """List the outputs that are in a folder, half-written ones too; with `tops`, those of these names and in them."""
    found = [entry for entry, sort in _look(path) if sort != "foreign"] if path.is_dir() else []
    return [entry for entry in found if not tops or entry.relative_to(path).parts[0] in tops]


def foreign_in(path: Path) -> list[Path]:
    """List what is in a folder and is not relearn's."""
    return [entry for entry, sort in _look(path) if sort == "foreign"]


def remove_outputs(path: Path, kept: tuple[str, ...] = ()) -> None:
    """Remove the outputs from a folder, except those named `kept`, and the folders that are empty then."""
    emptied = set()
    for entry in outputs_in(path):
        parts = entry.relative_to(path).parts
        if parts[0] not in kept:
            _remove(entry)
            emptied.update(path.joinpath(*parts[:depth]) for depth in range(len(parts)))
    for folder in sorted(emptied, key=lambda folder: -len(folder.parts)):
        if not any(folder.iterdir()):
            folder.rmdir()


def _remove(entry: Path) -> None:
    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)


def refuse_overwrite(targets: Iterable[Path], inputs: Iterable[Path | str | None]) -> None:
    """Raise an InputError where one of the files `targets` is one of `inputs`, by whatever name, link or hard link.

    A folder among the inputs stands for the files in it, one of relearn's for its outputs. What is no path here (a name
    on the hub) is passed over.
    """
    read = {}
    for given in filter(None, inputs):
        path = Path(given).expanduser()
        inside = [] if not path.is_dir() else outputs_in(path) if is_ours(path) else path.iterdir()
        read.update({_identity(one): given for one in (path, *inside)})
    read.pop(None, None)
    for target in targets:
        if (found := read.get(_identity(target))) is not None:
            raise InputError(
                f"would be written over the input {found}", where=str(target), way_out="choose another --out"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def below(folder: Path, *names: str) -> Path:
    """Join names that a user gave to a folder; raises InputError where they would lead out of it."""
    for name in names:
        if not name.isprintable() or name.startswith(".") or set("/\\") & set(name) or not 0 < len(name.encode()) < 200:
            raise InputError(
                f"{name!r} cannot name a folder",
                where="name",
                way_out="take a plain name, without / and without a dot in front",
            )
        folder = folder / name
        if folder.is_symlink():
            raise InputError(
                "is a symbolic link, and nothing is written through one",
                where=str(folder),
                way_out="choose another --out",
            )
    return folder


@contextmanager
def locked(folder: RunDir) -> Iterator[None]:
    """Keep a folder for this process: two never work in one."""
    lock = folder / "lock"
    if lock.is_symlink():
        lock.unlink()
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError("another process is at work here", where=str(folder.path)) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


class RunDir:
    """One run's folder. `stage` runs a piece of work once: a stage is done only when its outputs are in place."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def manifest(self) -> dict[str, Any]:
        path = self / "manifest.json"
        found = read_json(path) if path.exists() else {}
        if not isinstance(found, dict):
            raise InputError("is not a manifest of relearn", where=str(path))
        return {"stages": {}, **found}

    def update_manifest(self, **values: Any) -> None:
        """Write the manifest with `values` in it, and with the marker that makes the folder relearn's."""
        write_json(self / "manifest.json", {**self.manifest, **MARKER, **values})

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
        for entry, sort in list(_look(self.path)) if self.path.is_dir() else ():
            if sort == "leftover":
                _remove(entry)


# The start adapter knows the secrets: it goes too. The unlearned result and numbers stay.
KEPT = ("adapter", "model", "offset", "eco", "manifest.json", "summary.json", "scores.json", "lock")


def purge(folder: Path, *, really: bool) -> list[str]:
    """Name the outputs of a folder that hold texts, and remove them when `really`; scores.json loses its texts.

    What is not relearn's stays (`left_alone`). A link is removed, and what it points to is not. Raises InputError for a
    folder that relearn did not make, and where a process is at work.
    """
    own_folder(folder, links=True)
    going = {entry.relative_to(folder).parts[0] for entry in outputs_in(folder)}
    if really:
        with locked(RunDir(folder)):
            scores = folder / "scores.json"
            if scores.is_file():
                write_json(scores, _without_texts(read_json(scores)))
            # A folder of version 0.1 is known by its recipe, which goes.
            RunDir(folder).update_manifest()
            remove_outputs(folder, KEPT)
    return sorted(going.difference(KEPT))


def left_alone(folder: Path) -> list[str]:
    """Name what is in a folder and is not relearn's, relative to it."""
    return [str(entry.relative_to(folder)) for entry in foreign_in(folder)]


def _without_texts(value: Any) -> Any:
    """Return the same numbers without the entities of references and answers."""
    if isinstance(value, dict):
        return {
            key: _without_texts(part) for key, part in value.items() if key not in ("reference_entities", "matched")
        }
    return value
