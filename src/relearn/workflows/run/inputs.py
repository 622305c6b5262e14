"""Check the folder of a run, lock it and write the initial manifest: versions, input hashes, counts of records.

`begin` is shared by runs and evaluations.
"""

from __future__ import annotations

import hashlib
import json
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
from relearn.core.files import file_hash, files_hash, make_private_dir, write_text
from relearn.core.ownership import check_links, clear_leftovers, is_new, is_ours, outputs_in, refuse_overwrite
from relearn.core.run_dir import RECIPE, RunFolder, locked, refuse_changes, require_trust
from relearn.core.yaml_config import read_mapping
from relearn.data import Record
from relearn.data.loaders import files_in_folder
from relearn.data.validation import DataSet
from relearn.inference.run_models import fingerprints, refuse_changed_models
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
    earlier = _recipe_of_run(path)
    if earlier is None or not earlier.makes_same_answers(recipe):
        way_out = "choose another --out, or remove it"
        raise InputError("run folder was made by another recipe", where=where, way_out=way_out)
    if not ours and path.read_bytes() != recipe.to_yaml().encode():
        raise foreign
    if not resume:
        raise InputError("run folder holds this run already", where=where, way_out="--resume goes on with it")
    require_trust(earlier.model.trust_remote_code, recipe.model.trust_remote_code, folder.path)
    check_links(folder.path)
    refuse_overwrite(outputs_in(folder.path), input_paths(recipe))


def _is_cut_off(path: Path, recipe: Recipe) -> bool:
    """Return whether a crash left the beginning of this recipe in a folder in which no stage was begun."""
    text = recipe.to_yaml().encode()
    if not (is_new(path, RECIPE) and is_ours(path) and (path / RECIPE).stat().st_size < len(text)):
        return False
    return text.startswith((path / RECIPE).read_bytes())


def _recipe_of_run(path: Path) -> Recipe | None:
    """Read a recipe to compare it; keys that are missing in the file have their defaults. None if it is no recipe."""
    try:
        return Recipe.from_mapping(read_mapping(path), variables=False)
    except InputError:
        return None


def begin_run(folder: RunFolder, recipe: Recipe, data: DataSet, held: ExitStack) -> None:
    """Lock a run folder and write recipe and manifest. Raises InputError if an input has changed."""
    # The recipe of a folder in which no stage was begun may be cut off.
    other_audit = bool(folder.manifest["stages"]) and folder.has_recipe and folder.recipe.audit != recipe.audit
    plugin_entries = _plugin_entries(folder.manifest.get("plugins", ()), recipe.unlearn.method)
    other_files = [path for path in _other_paths(recipe) if Path(path).is_file()]
    begin(
        folder,
        {RECIPE: recipe.to_yaml()},
        held,
        began="run",
        inputs=input_hashes([*_data_paths(recipe), *other_files]),
        models=fingerprints(recipe),
        settings=_settings_hashes(recipe),
        seed=recipe.seed,
        model=recipe.model.model_dump(mode="json"),
        counts={name: len(records) for name, records in data.sets()},
        notes=list(dict.fromkeys([*data.notes, *folder.manifest.get("notes", [])])),
        **({"plugins": plugin_entries} if plugin_entries else {}),
    )
    if other_audit:
        folder.drop_stages("audit")


def _settings_hashes(recipe: Recipe) -> dict[str, str]:
    """Compute the sha256 of each part of a recipe that decides the answers, without keys that have their defaults."""
    values = recipe.trusting(False).model_dump(mode="json", exclude_defaults=True)
    parts = ("seed", "model", "data", "learn", "synthesis", "unlearn", "generate")
    texts = {name: json.dumps(values.get(name), sort_keys=True, ensure_ascii=False) for name in parts}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def _plugin_entries(recorded: Iterable[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    """Return the plug-ins recorded in the manifest, followed by further plug-ins that `method` uses."""
    used = {plugin.name: plugin.to_dict() for plugin in plugins.used_by(method)}
    return list({**used, **{entry["name"]: entry for entry in recorded}}.values())


def begin(
    folder: RunFolder,
    settings_files: Mapping[str, str],
    held: ExitStack,
    *,
    began: str,
    inputs: Mapping[str, str],
    models: Mapping[str, str | None],
    settings: Mapping[str, str] | None = None,
    **manifest: Any,
) -> None:
    """Create and lock a folder; write its `settings_files` (file name -> text) and the initial manifest.

    The manifest keeps the date on which the folder was begun, for chat templates that contain today's date.
    `inputs`, `models`, `settings`: hashes of what the stages rest on. Raises InputError, before anything is written,
    where one differs from that in the manifest. `began`: "run" or "evaluation", for messages. The lock is released when
    `held` closes.
    """
    recorded = folder.manifest
    refuse_changes(recorded.get("inputs", {}), inputs, began=began)
    refuse_changed_models(folder, models, began=began)
    refuse_changes(recorded.get("settings", {}), settings or {}, where="the key {} of the recipe", began=began)
    make_private_dir(folder.path)
    held.enter_context(locked(folder))
    clear_leftovers(folder.path)
    # The manifest comes first, so that the folder is recognised as relearn's if the process is killed here.
    folder.update_manifest()
    for name, text in settings_files.items():
        write_text(folder / name, text)
    kept = {**recorded.get("models", {}), **{key: digest for key, digest in models.items() if digest is not None}}
    manifest |= {"settings": dict(settings)} if settings else {}
    manifest |= {"versions": versions(), "date": folder.date.isoformat(), "inputs": dict(inputs), "models": kept}
    folder.update_manifest(**manifest)


def record_models(folder: RunFolder, models: Mapping[str, str | None], *, began: str) -> None:
    """Add the hashes of models that were downloaded meanwhile. Raises InputError where a model has changed."""
    refuse_changed_models(folder, models, began=began)
    recorded = folder.manifest.get("models", {})
    if added := {key: digest for key, digest in models.items() if digest is not None and recorded.get(key) is None}:
        folder.update_manifest(models={**recorded, **added})


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


def input_hashes(paths: Iterable[str]) -> dict[str, str]:
    """Compute the sha256 of each file, and of the data files in each folder, by path; names on the hub are omitted."""
    places = {path: Path(path).expanduser() for path in paths}
    hashes = {path: file_hash(place) for path, place in places.items() if place.is_file()}
    folders = {path: files_hash(files_in_folder(place)) for path, place in places.items() if place.is_dir()}
    return {**hashes, **folders}


def input_paths(recipe: Recipe) -> list[str]:
    """List all data and models that a run reads, by their names in the recipe."""
    models = (recipe.model.name, *recipe.model.adapters, recipe.metrics.base_model)
    return [*_data_paths(recipe), *_other_paths(recipe), *filter(None, models)]


def _data_paths(recipe: Recipe) -> list[str]:
    data = recipe.data
    sources = [*data.forget, *data.retain, *data.holdout, *data.generic, *data.probes.forget, *data.probes.retain]
    sources += [*data.utility.real_authors, *data.utility.world_facts]
    sources += (*recipe.learn.data, *recipe.learn.without) if recipe.learn else ()
    return [source.path for source in sources]


def _other_paths(recipe: Recipe) -> list[str]:
    others = (recipe.synthesis.file, recipe.metrics.retain_reference, *recipe.metrics.ability.tasks)
    return [path for path in others if path]


def with_subjects(data: DataSet) -> DataSet:
    """Fill in the missing subjects of all records (`with_subject`)."""
    return replace(data, **{name: tuple(map(with_subject, records)) for name, records in data.sets()})


def with_subject(record: Record) -> Record:
    """Return the record with its subject; a missing subject is read from the question."""
    return record if record.subject else replace(record, subject=find_subject(record.question))
