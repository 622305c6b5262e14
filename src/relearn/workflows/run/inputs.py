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

from relearn.core import __version__, plugins
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.files import file_hash, make_private_dir, write_text
from relearn.core.ownership import check_links, clear_leftovers, is_new, is_ours, outputs_in, refuse_overwrite
from relearn.core.run_dir import RECIPE, RunFolder, locked
from relearn.data import Record
from relearn.data.validation import DataSet
from relearn.text.subjects import find_subject

# Packages whose version can change a number; the kernels are optional and used on a GPU.
PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "spacy", "numpy")
KERNELS = ("bitsandbytes", "liger-kernel", "flash-attn")


def check_folder(folder: RunFolder, recipe: Recipe, *, resume: bool) -> None:
    """Check that a run of this recipe may use the folder.

    Raises InputError for a folder with other content, for the run folder of another recipe, and without `resume` for a
    run folder of this recipe. A folder with only a recipe.yaml counts as a run folder if the file equals this recipe: a
    run that was killed at its start leaves such a folder, but users also keep recipes beside their code.
    """
    path = folder / RECIPE
    if is_new(folder.path) or _is_cut_off(folder.path, recipe):
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


def _is_cut_off(path: Path, recipe: Recipe) -> bool:
    """Return whether a crash left the beginning of this recipe in a folder in which no stage was begun."""
    text = recipe.to_yaml().encode()
    if not (is_new(path, RECIPE) and is_ours(path) and (path / RECIPE).stat().st_size < len(text)):
        return False
    return text.startswith((path / RECIPE).read_bytes())


def _same_recipe(path: Path, recipe: Recipe) -> bool:
    """Return whether a recipe file equals `recipe`; keys that are missing in the file have their defaults."""
    if path.read_bytes() == recipe.to_yaml().encode():
        return True
    try:
        return Recipe.from_yaml(path) == recipe
    except InputError:
        return False


def begin_run(folder: RunFolder, recipe: Recipe, data: DataSet, held: ExitStack) -> None:
    """Lock a run folder and write recipe and manifest. Raises InputError if an input file has changed."""
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
    """Return the plug-ins recorded in the manifest, followed by further plug-ins that `method` uses."""
    used = {plugin.name: plugin.to_dict() for plugin in plugins.used_by(method)}
    return list({**used, **{entry["name"]: entry for entry in recorded}}.values())


def begin(folder: RunFolder, settings: Mapping[str, str], held: ExitStack, **manifest: Any) -> None:
    """Create and lock a folder; write its `settings` (file name -> text) and the initial manifest.

    The manifest keeps the date on which the folder was begun, for chat templates that contain today's date.
    The lock is released when `held` closes.
    """
    make_private_dir(folder.path)
    held.enter_context(locked(folder))
    clear_leftovers(folder.path)
    # The manifest comes first, so that the folder is recognised as relearn's if the process is killed here.
    folder.update_manifest()
    for name, text in settings.items():
        write_text(folder / name, text)
    folder.update_manifest(versions=versions(), date=folder.date.isoformat(), **manifest)


def versions() -> dict[str, Any]:
    """Return versions of relearn, Python and packages that can change a number, the platform, and the git revision."""
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
    """Compute the sha256 of every input file, by path; folders and names on the hub are omitted."""
    return {path: file_hash(Path(path)) for path in _data_paths(recipe) if Path(path).is_file()}


def input_paths(recipe: Recipe) -> list[str]:
    """List all data and models that a run reads, by their names in the recipe."""
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
    """Fill in the missing subjects of all records (`with_subject`)."""
    return replace(data, **{name: tuple(map(with_subject, records)) for name, records in data.sets()})


def with_subject(record: Record) -> Record:
    """Return the record with its subject; a missing subject is read from the question."""
    return record if record.subject else replace(record, subject=find_subject(record.question))
