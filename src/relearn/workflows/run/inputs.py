"""Check the folder of a run, lock it and write the initial manifest: versions, input hashes, counts of records.

`begin` is shared by runs and evaluations.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from relearn.core import plugins
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.files import file_hash, make_private_dir, write_text
from relearn.core.ownership import check_links, clear_leftovers, is_new, is_ours, outputs_in, refuse_overwrite
from relearn.core.run_dir import RECIPE, RunFolder, locked
from relearn.core.version import __version__
from relearn.data import Record
from relearn.data.validation import DataSet
from relearn.text.subjects import find_subject

# Packages whose version can change a number; the kernels do so on a GPU, where they are installed.
PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "spacy", "numpy")
KERNELS = ("bitsandbytes", "liger-kernel", "flash-attn")


def check_folder(folder: RunFolder, recipe: Recipe, *, resume: bool) -> None:
    """Raise InputError for a folder that is neither empty nor this run's, or is this run's without `resume`.

    A recipe.yaml alone makes no run folder: users keep such files beside their code. A run that was killed as it began
    has left one too, with exactly this recipe.
    """
    path = folder / RECIPE
    if is_new(folder.path):
        return
    where = str(folder.path)
    foreign = InputError("folder is not empty and holds no run", where=where, way_out="choose another --out")
    ours = is_ours(folder.path)
    if not path.is_file() or not (ours or is_new(folder.path, RECIPE)):
        raise foreign
    if not _same_recipe(path, recipe):
        way_out = "choose another --out, or remove it"
        raise InputError("run folder was made by another recipe", where=where, way_out=way_out)
    if not ours and path.read_bytes() != recipe.to_yaml().encode():
        raise foreign
    if not resume:
        raise InputError("run folder holds this run already", where=where, way_out="--resume goes on with it")
    check_links(folder.path)
    refuse_overwrite(outputs_in(folder.path), input_paths(recipe))


def _same_recipe(path: Path, recipe: Recipe) -> bool:
    """Compare a recipe file with `recipe`; keys that were added later have their defaults in it."""
    if path.read_bytes() == recipe.to_yaml().encode():
        return True
    try:
        return Recipe.from_yaml(path) == recipe
    except InputError:
        return False


def begin_run(folder: RunFolder, recipe: Recipe, data: DataSet, held: ExitStack) -> None:
    """Lock the folder of a run and write recipe and manifest. Raises InputError for a changed input file."""
    inputs = input_hashes(recipe)
    for path, digest in folder.manifest.get("inputs", inputs).items():
        if inputs.get(path) != digest:
            way_out = "restore it, or start anew with another --out"
            raise InputError("has changed since this run began", where=path, way_out=way_out)
    plugin_entries = _plugin_entries(folder.manifest.get("plugins", ()), recipe.unlearn.method)
    begin(
        folder,
        {RECIPE: recipe.to_yaml()},
        held,
        seed=recipe.seed,
        inputs=inputs,
        model=recipe.model.model_dump(mode="json"),
        counts={name: len(records) for name, records in data.sets()},
        notes=list(dict.fromkeys([*data.notes, *folder.manifest.get("notes", [])])),
        **({"plugins": plugin_entries} if plugin_entries else {}),
    )


def _plugin_entries(recorded: Iterable[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    """Return the plug-ins that the manifest records, and those used now that it does not."""
    used = {plugin.name: plugin.to_dict() for plugin in plugins.used_by(method)}
    return list({**used, **{entry["name"]: entry for entry in recorded}}.values())


def begin(folder: RunFolder, settings: Mapping[str, str], held: ExitStack, **manifest: Any) -> None:
    """Create and lock a folder; write its `settings` (file name -> text) and the initial manifest.

    The lock is released when `held` closes.
    """
    make_private_dir(folder.path)
    held.enter_context(locked(folder))
    clear_leftovers(folder.path)
    # The marker comes first: a process that is killed here leaves a folder that is recognised as relearn's.
    folder.update_manifest()
    for name, text in settings.items():
        write_text(folder / name, text)
    folder.update_manifest(versions=versions(), **manifest)


def versions() -> dict[str, Any]:
    """Return the versions of relearn, Python and the packages that can change a number, and the source revision."""
    found = {"relearn": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES + KERNELS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    revision = _revision()
    return {**found, "revision": revision} if revision else found


def _revision() -> str | None:
    command, folder = ["git", "rev-parse", "HEAD"], Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def input_hashes(recipe: Recipe) -> dict[str, str]:
    """Return the sha256 of every input file by path; folders and names on the hub have none."""
    return {path: file_hash(Path(path)) for path in _data_paths(recipe) if Path(path).is_file()}


def input_paths(recipe: Recipe) -> list[str]:
    """List all data and models that a run reads, by the names the recipe gives them."""
    models = (recipe.model.name, *recipe.model.adapters, recipe.metrics.base_model)
    return [*_data_paths(recipe), *filter(None, models)]


def _data_paths(recipe: Recipe) -> list[str]:
    data = recipe.data
    sources = [*data.forget, *data.retain, *data.holdout, *data.generic, *data.probes.forget, *data.probes.retain]
    sources += [*data.utility.real_authors, *data.utility.world_facts]
    sources += (*recipe.learn.data, *recipe.learn.without) if recipe.learn else ()
    others = (recipe.synthesis.file, recipe.metrics.retain_reference, *recipe.metrics.ability.tasks)
    return [*(source.path for source in sources), *filter(None, others)]


def with_subjects(data: DataSet) -> DataSet:
    """Fill in the subjects of all records (`with_subject`)."""
    return replace(data, **{name: tuple(map(with_subject, records)) for name, records in data.sets()})


def with_subject(record: Record) -> Record:
    """Return the record with the subject that its question names, unless it has one."""
    return record if record.subject else replace(record, subject=find_subject(record.question))
