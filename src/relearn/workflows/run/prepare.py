"""Before the first stage: everything that can be wrong is looked at, the folder is taken hold of, the beginning noted.

Nothing is written until all of that holds.

What a run was made with: versions, machine, hashes of its inputs.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from relearn.ability import check_ability
from relearn.core import plugins
from relearn.core.config import Learn, Recipe
from relearn.core.errors import InputError
from relearn.core.run_dir import (
    RunDir,
    check_links,
    file_hash,
    is_new,
    is_ours,
    outputs_in,
    refuse_overwrite,
    write_text,
)
from relearn.core.version import __version__
from relearn.data import Record
from relearn.data.validation import DataSet, check_lengths, check_special_tokens, load_all, load_set, normalised
from relearn.metrics.llm_judge import check_remote_judge
from relearn.metrics.retain_reference import load_reference
from relearn.models.chat import chat_format
from relearn.models.load import check_backend, check_machine, load_tokenizer
from relearn.synthesis.generation_cost import WITH_ANSWERS, check_remote
from relearn.text.subjects import find_subject
from relearn.unlearning.data.streams import is_written
from relearn.unlearning.masks.mask import check_mask
from relearn.unlearning.method import METHODS
from relearn.unlearning.procedures import PROCEDURES

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "spacy", "numpy")
# They change a number only on a GPU, and only where they are installed.
KERNELS = ("bitsandbytes", "liger-kernel", "flash-attn")


def versions() -> dict[str, Any]:
    """Versions of relearn, Python and the packages that can change a number; the source revision if there is one."""
    found = {"relearn": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES + KERNELS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    revision = _revision()
    return {**found, "revision": revision} if revision else found


def input_hashes(recipe: Recipe) -> dict[str, str]:
    """sha256 of every input file by path; folders and hub names have none."""
    return {path: file_hash(Path(path)) for path in _data_paths(recipe) if Path(path).is_file()}


def read_paths(recipe: Recipe) -> list[str]:
    """Everything a run reads: data and models, by the names the recipe gives them."""
    models = (recipe.model.name, *recipe.model.adapters, recipe.metrics.base_model)
    return [*_data_paths(recipe), *filter(None, models)]


def _data_paths(recipe: Recipe) -> list[str]:
    data = recipe.data
    sources = [*data.forget, *data.retain, *data.holdout, *data.generic, *data.probes.forget, *data.probes.retain]
    sources += [*data.utility.real_authors, *data.utility.world_facts]
    sources += (*recipe.learn.data, *recipe.learn.without) if recipe.learn else ()
    others = (recipe.synthesis.file, recipe.metrics.retain_reference, *recipe.metrics.ability.tasks)
    return [*(source.path for source in sources), *filter(None, others)]


def _revision() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def prepare(recipe: Recipe, *, trained: bool = False) -> DataSet:
    """Read and check all that a run depends on, before anything is spent or written; find the records' subjects.

    With `trained` the method is not looked at: unlearning is done.
    """
    writes_answers = not trained and _check_method(recipe)
    check_machine(recipe.model, full=recipe.unlearn.full, learns=recipe.learn is not None)
    check_backend(recipe.generate, recipe.model)
    check_remote_judge(recipe.metrics)
    if recipe.metrics.retain_reference:
        load_reference(recipe.metrics.retain_reference)
    check_ability(recipe.metrics.ability)
    data = load_all(recipe.data)
    if recipe.metrics.entities != "spacy":
        check_remote(recipe.synthesis, len(data.forget), WITH_ANSWERS)
    elif writes_answers or recipe.metrics.worst_case:
        check_remote(recipe.synthesis, len(data.forget))
    sets = [(records, data.places.get(name)) for name, records in data.sets()]
    if recipe.learn:
        sets.append(load_set(recipe.learn.data, "retain", "learn.data"))
    _check_texts(recipe, sets)
    named = {name: tuple(with_subject(record) for record in records) for name, records in data.sets()}
    return replace(data, **named)


def _check_method(recipe: Recipe) -> bool:
    """Check method, options and mask; return whether the method needs answers that a generator writes."""
    method = METHODS.get(recipe.unlearn.method)
    method.objective(recipe.unlearn.options)
    PROCEDURES.get(method.procedure).check(recipe.model, recipe.unlearn)
    if recipe.unlearn.mask:
        check_mask(recipe.unlearn.mask)
    return is_written(method.source(recipe.unlearn.options))


def _check_texts(recipe: Recipe, sets: Sequence[tuple[Sequence[Record], Any]]) -> None:
    """Texts a model can take: none of its special tokens inside, none longer than the limit with its template."""
    tokenizer = load_tokenizer(recipe.model)
    chat = chat_format(tokenizer, template=recipe.model.chat_template, system_prompt=recipe.model.system_prompt)
    frame = len(tokenizer(chat.prompt("", "chat") + chat.target("", "chat")).input_ids)
    for records, places in sets:
        check_special_tokens(records, tokenizer.all_special_tokens, places)
        check_lengths(records, lambda text: len(tokenizer(text).input_ids), recipe.unlearn.max_length - frame, places)


def records_to_learn(settings: Learn) -> tuple[Record, ...]:
    """The rows of `learn.data` less those whose question stands in `learn.without`."""
    records, _ = load_set(settings.data, "retain", "learn.data")
    left_out = {normalised(record.question) for record in load_set(settings.without, "forget", "learn.without")[0]}
    return tuple(record for record in records if normalised(record.question) not in left_out)


def with_subject(record: Record) -> Record:
    """The record with the subject its question names, unless it brings one."""
    return record if record.subject else replace(record, subject=find_subject(record.question))


def check_folder(folder: RunDir, recipe: Recipe, *, resume: bool) -> None:
    """Raises InputError when a folder is not empty and not this run's own, or is this run's and `resume` is not set.

    A recipe.yaml makes no folder a run's: a user has one beside his code. A run that was killed as it began has left
    one too, in its own words.
    """
    kept = folder / "recipe.yaml"
    if is_new(folder.path):
        return
    foreign = InputError("folder is not empty and holds no run", where=str(folder.path), way_out="choose another --out")
    ours = is_ours(folder.path)
    if not kept.is_file() or not (ours or is_new(folder.path, kept.name)):
        raise foreign
    if not _same_recipe(kept, recipe):
        raise InputError(
            "run folder was made by another recipe",
            where=str(folder.path),
            way_out="choose another --out, or remove it",
        )
    if not ours and kept.read_bytes() != recipe.to_yaml().encode():
        raise foreign
    if not resume:
        raise InputError(
            "run folder holds this run already", where=str(folder.path), way_out="--resume goes on with it"
        )
    check_links(folder.path)
    refuse_overwrite(outputs_in(folder.path), read_paths(recipe))


def _same_recipe(kept: Path, recipe: Recipe) -> bool:
    """Whether a folder's recipe says the same; one written before a key was added has that key's default."""
    if kept.read_bytes() == recipe.to_yaml().encode():
        return True
    try:
        return Recipe.from_yaml(kept) == recipe
    except InputError:
        return False


def begin(folder: RunDir, recipe: Recipe, data: DataSet) -> None:
    """Write down what the run begins with; raises InputError when an input file is no longer what it was."""
    inputs = input_hashes(recipe)
    for path, digest in folder.manifest.get("inputs", inputs).items():
        if inputs.get(path) != digest:
            raise InputError(
                "has changed since this run began", where=path, way_out="restore it, or start anew with another --out"
            )
    # Marked first: what a process leaves that is killed here must be known as its own.
    folder.update_manifest()
    write_text(folder / "recipe.yaml", recipe.to_yaml())
    earlier = folder.manifest.get("notes", [])
    used = _plugins(folder.manifest.get("plugins", ()), recipe.unlearn.method)
    folder.update_manifest(
        versions=versions(),
        seed=recipe.seed,
        inputs=inputs,
        model=recipe.model.model_dump(mode="json"),
        counts={name: len(records) for name, records in data.sets()},
        notes=list(dict.fromkeys([*data.notes, *earlier])),
        **({"plugins": used} if used else {}),
    )


def _plugins(recorded: Iterable[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    """Return the plug-ins that the manifest records, and those used now that it does not."""
    used = {plugin.name: plugin.to_dict() for plugin in plugins.used_by(method)}
    return list({**used, **{entry["name"]: entry for entry in recorded}}.values())
