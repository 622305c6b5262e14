"""Decide which files of a folder relearn may overwrite or remove.

relearn writes only to folders that it made, which are marked in manifest.json. In such a folder it overwrites and
removes only output files: those that match a pattern in `OUTPUTS`. All other files are foreign and belong to the user.
A leftover is an output file that a killed process did not finish. relearn never writes or removes through a symbolic
link.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from relearn.core.config import Recipe
from relearn.core.errors import InputError, RelearnError
from relearn.core.files import TEMPORARY_SUFFIX, curve_path, read_json, remove_entry, write_json
from relearn.core.run_dir import (
    CERTIFICATE_HTML,
    CERTIFICATE_JSON,
    EVALUATION,
    FORMAT,
    LOCK,
    MANIFEST,
    MARKER,
    OUTPUTS,
    PROBES,
    RECIPE,
    SCORES,
    SUMMARY,
    RunFolder,
    is_cut_manifest,
    locked,
    recipe_in_folder,
)
from relearn.core.yaml_config import read_mapping

Ownership = Literal["output", "leftover", "foreign"]
_PATTERNS = [tuple(pattern.split("/")) for pattern in OUTPUTS]
CONTROL_CURVES = "audits/answers/relearning.control.jsonl"
# Temporary name of an output file that was not completely written; version 0.1 added no suffix.
_LEFTOVER = re.compile(rf"\.(?P<name>.+)\.[a-z0-9_]{{8}}(?:{re.escape(TEMPORARY_SUFFIX)})?")
# The runs in the folder of a comparison.
RUNS_OF_COMPARISON = ("shared*", "search/*", "runs/*")
# What `purge` keeps of the manifest, without texts.
PURGED_MANIFEST = ("stages", "versions", "seed", "model", "counts", "plugins", "synthesis", "alternates")
TEXTS = ("reference_entities", "matched", "system_prompt", "notes")
# Outputs that `purge` keeps: the unlearned model, the scores, and the certificate, which has no texts, with its probes,
# which are encrypted. The start adapter is removed: it was trained on the secrets.
PURGE_KEEPS = (
    *("adapter", "model", "offset", "eco", MANIFEST, SUMMARY, SCORES, LOCK),
    *(CERTIFICATE_JSON, CERTIFICATE_HTML, PROBES),
)


def own_folder(path: Path | str, needed: str = MANIFEST, *, links: bool = False) -> RunFolder:
    """Open a run folder that relearn made, in order to write to it.

    Raises InputError for any other folder, and where an output file is a symbolic link unless `links` is set.
    """
    folder = RunFolder.existing(path, needed)
    if not is_ours(folder.path):
        problem = "is not a folder that relearn made: its manifest.json does not say so"
        raise InputError(problem, where=str(path), way_out="give a run folder, such as runs/demo")
    if not links:
        check_links(folder.path)
    return folder


def is_ours(path: Path) -> bool:
    """Return whether relearn made a folder: its manifest has the marker, or was written by version 0.1 without one.

    Raises InputError for a folder of a later format.
    """
    manifest = _manifest(path)
    marker = manifest.get("relearn")
    if isinstance(marker, dict) and isinstance(marker.get("format"), int):
        if marker["format"] > FORMAT:
            problem = f"was made by relearn {marker.get('version')}, which writes folders in another format"
            raise InputError(problem, where=str(path), way_out="update relearn, or choose another folder")
        return True
    if not isinstance(manifest.get("stages"), dict):
        return False
    versions = manifest.get("versions")
    # A folder that version 0.1 has purged contains no recipe, so the versions in the manifest decide.
    return _has_settings(path) or (isinstance(versions, dict) and "relearn" in versions)


def _manifest(path: Path) -> dict[str, Any]:
    """Read manifest.json; return {} where it is missing, a link, or not a JSON object."""
    file = path / MANIFEST
    try:
        manifest = {} if file.is_symlink() else json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _has_settings(path: Path) -> bool:
    try:
        if (path / EVALUATION).exists():
            return "forget" in read_mapping(path / EVALUATION)
        return bool(RunFolder(path).recipe)
    except RelearnError:
        return False


def read_recipe(path: Path, changes: tuple[str, ...] = (), *, trust_remote_code: bool = False) -> Recipe:
    """Read a recipe that the user named; `changes` such as "unlearn.epochs=2" replace its keys.

    Its own `trust_remote_code` counts, unless the file is in a run folder (see `recipe_in_folder`).
    """
    if is_ours(path.parent):
        return recipe_in_folder(path, changes, trust_remote_code=trust_remote_code)
    recipe = Recipe.from_yaml(path, changes)
    return recipe.trusting(True) if trust_remote_code else recipe


def is_new(path: Path, settings: str | None = None) -> bool:
    """Return whether a folder does not exist, or contains only files of a process that was killed before a stage.

    These files are the lock, leftovers, a manifest without stages, and the file named `settings`.
    """
    if not os.path.lexists(path):
        return True
    return path.is_dir() and all(
        kind == "leftover" or _is_first_file(path, entry, settings) for entry, kind in _entries(path)
    )


def _is_first_file(path: Path, entry: Path, settings: str | None) -> bool:
    if entry.parent != path or entry.is_symlink() or not entry.is_file():
        return False
    if entry.name == MANIFEST:
        manifest = _manifest(path)
        return is_cut_manifest(entry) or (set(manifest) == {"stages", *MARKER} and not manifest["stages"])
    return entry.name == settings or (entry.name == LOCK and entry.stat().st_size == 0)


def check_links(path: Path) -> None:
    """Raise InputError where an output file in a folder is a symbolic link."""
    for entry in outputs_in(path):
        if entry.is_symlink():
            way_out = "choose another folder, or put there what it points to"
            problem = "is a symbolic link, and nothing is written through one"
            raise InputError(problem, where=str(entry), way_out=way_out)


def is_output(name: Path | str) -> bool:
    """Return whether a path relative to a run folder matches `OUTPUTS`, or is a folder of such files."""
    return bool(parts := Path(name).parts) and _match(parts) is not None


def _match(parts: tuple[str, ...]) -> Literal["file", "folder", "tree"] | None:
    """Match a relative path with `OUTPUTS`.

    "file": an output file; "folder": a folder that can contain output files; "tree": a folder whose files are all
    outputs; None: no match.
    """
    for pattern in _PATTERNS:
        if len(parts) > len(pattern) or not all(map(fnmatchcase, parts, pattern)):
            continue
        rest = pattern[len(parts) :]
        return "file" if not rest else "tree" if rest == ("",) else "folder"
    return None


def _entries(path: Path, below: tuple[str, ...] = ()) -> Iterator[tuple[Path, Ownership]]:
    """Yield (path, kind) of the files of a folder, sorted by name; links are not followed."""
    for entry in sorted(path.joinpath(*below).iterdir()):
        parts = (*below, entry.name)
        match = _match(parts)
        is_folder = entry.is_dir() and not entry.is_symlink()
        if is_leftover(entry.name, below):
            yield entry, "leftover"
        elif match == "folder" and is_folder:
            yield from _entries(path, parts)
        elif (match and entry.is_symlink()) or match == ("tree" if is_folder else "file"):
            yield entry, "output"
        else:
            yield entry, "foreign"


def is_leftover(name: str, below: tuple[str, ...] | None = None) -> bool:
    """Return whether a file name is the temporary name of an incomplete file.

    With `below`, the parts of a subfolder of the run folder, the incomplete file must also be an output there.
    """
    match = _LEFTOVER.fullmatch(name)
    return match is not None and (below is None or _match((*below, match["name"])) is not None)


def outputs_in(path: Path, *names: str) -> list[Path]:
    """List the output files in a folder, including leftovers; with `names`, only files or folders of these names."""
    entries = [entry for entry, kind in _entries(path) if kind != "foreign"] if path.is_dir() else []
    return [entry for entry in entries if not names or entry.relative_to(path).parts[0] in names]


def foreign_in(path: Path) -> list[Path]:
    """List the foreign files in a folder: those that relearn did not write."""
    return [entry for entry, kind in _entries(path) if kind == "foreign"]


def clear_leftovers(path: Path) -> None:
    """Remove the incomplete output files that a killed process left."""
    for entry, kind in list(_entries(path)) if path.is_dir() else ():
        if kind == "leftover":
            remove_entry(entry)


def remove_outputs(path: Path, keep: tuple[str, ...] = ()) -> None:
    """Remove the output files from a folder, except those named in `keep`, and the folders that are then empty."""
    folders = set()
    for entry in outputs_in(path):
        parts = entry.relative_to(path).parts
        if parts[0] not in keep:
            remove_entry(entry)
            folders.update(path.joinpath(*parts[:depth]) for depth in range(len(parts)))
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        if not any(folder.iterdir()):
            folder.rmdir()


def refuse_overwrite(targets: Iterable[Path], inputs: Iterable[Path | str | None]) -> None:
    """Raise InputError where writing to `targets` would overwrite one of `inputs`, also through a link.

    For a folder among the inputs all files in it are checked, for a run folder its output files. Inputs that are not
    paths (names on the hub) are ignored.
    """
    by_identity = {}
    for name in filter(None, inputs):
        path = Path(name).expanduser()
        files = [] if not path.is_dir() else outputs_in(path) if is_ours(path) else path.iterdir()
        by_identity.update({_identity(file): name for file in (path, *files)})
    by_identity.pop(None, None)
    for target in targets:
        if (name := by_identity.get(_identity(target))) is not None:
            problem = f"would be written over the input {name}"
            raise InputError(problem, where=str(target), way_out="choose another --out")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def below(folder: Path, *names: str) -> Path:
    """Join a folder and names that a user gave. Raises InputError for a name that would lead out of the folder."""
    for name in names:
        if not name.isprintable() or name.startswith(".") or set("/\\") & set(name) or not 0 < len(name.encode()) < 200:
            way_out = "take a plain name, without / and without a dot in front"
            raise InputError(f"{name!r} cannot name a folder", where="name", way_out=way_out)
        folder = folder / name
        if folder.is_symlink():
            problem = "is a symbolic link, and nothing is written through one"
            raise InputError(problem, where=str(folder), way_out="choose another --out")
    return folder


def purge(path: Path, *, really: bool) -> list[str]:
    """Remove all output files with texts from a run folder; return their names. Without `really`, remove nothing.

    Kept are the unlearned model, the scores and every foreign file (`left_alone`); texts, record ids and the system
    prompt are removed from the scores and the manifest. The relearning curves of the run's control model are removed
    from the cache folder. Links are removed, their targets are not. The runs of a comparison are purged with its
    folder. Raises InputError for a folder that relearn did not make, and, before anything is removed, where another
    process holds a lock.
    """
    own_folder(path, links=True)
    folders = [RunFolder(folder) for folder in _run_folders(path)]
    outputs = [
        (folder / entry.relative_to(folder.path).parts[0]) for folder in folders for entry in outputs_in(folder.path)
    ]
    names = {output.relative_to(path) for output in outputs if output.name not in PURGE_KEEPS}
    with ExitStack() as held:
        for folder in folders if really else ():
            held.enter_context(locked(folder))
        for folder in folders if really else ():
            if (folder / SCORES).is_file():
                write_json(folder / SCORES, _without_texts(read_json(folder / SCORES), {}))
            # The marker is added, because a folder of version 0.1 is recognised by its recipe, which is removed below.
            kept = {name: value for name, value in folder.manifest.items() if name in PURGED_MANIFEST}
            write_json(folder / MANIFEST, {**_without_texts(kept, {}), **MARKER})
            _remove_curves(folder)
            remove_outputs(folder.path, PURGE_KEEPS)
    return sorted(map(str, names))


def _remove_curves(folder: RunFolder) -> None:
    """Remove the answers of the fine-tuned control model from the cache folder; they may contain secrets."""
    rows = folder.rows(CONTROL_CURVES, torn=True)
    for key in {str(row.get("curve")) for row in rows}:
        if re.fullmatch("[0-9a-f]{64}", key):
            curve_path(key).unlink(missing_ok=True)


def _run_folders(path: Path) -> list[Path]:
    """List a run folder and, for the folder of a comparison, the run folders in it."""
    if RunFolder(path).manifest["stages"] or any((path / name).exists() for name in (RECIPE, EVALUATION)):
        return [path]
    inner = [folder for pattern in RUNS_OF_COMPARISON for folder in sorted(path.glob(pattern))]
    return [path, *(folder for folder in inner if folder.resolve().is_relative_to(path.resolve()) and is_ours(folder))]


def left_alone(path: Path) -> list[str]:
    """List the foreign files, which `purge` keeps, by path relative to the folder."""
    first, *inner = _run_folders(path)
    # A folder that contains runs of a comparison is not foreign; what is foreign in these runs is listed.
    own = {parent for folder in inner for parent in (folder, *folder.parents)}
    foreign = [entry for entry in foreign_in(first) if entry not in own]
    return [
        str(entry.relative_to(path))
        for entry in (*foreign, *(entry for folder in inner for entry in foreign_in(folder)))
    ]


def _without_texts(value: Any, numbers: dict[str, str]) -> Any:
    """Return scores or a manifest without texts and with a number for each record id; `numbers` collects these."""
    if isinstance(value, list):
        return [_without_texts(part, numbers) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {key: part for key, part in value.items() if key not in TEXTS}
    for name in ("per_record", "items"):
        if isinstance(by_id := kept.get(name), dict):
            kept[name] = {numbers.setdefault(key, str(len(numbers) + 1)): part for key, part in by_id.items()}
    return {key: _without_texts(part, numbers) for key, part in kept.items()}
