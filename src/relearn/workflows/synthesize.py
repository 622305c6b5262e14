"""Write the training rows for a forget set without a run (`relearn synthesize`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relearn.core import console
from relearn.core.config import Data, Synthesis
from relearn.core.errors import InputError
from relearn.core.files import make_private_dir
from relearn.core.ownership import check_links, clear_leftovers, is_new, is_ours, outputs_in, refuse_overwrite
from relearn.core.run_dir import CACHE, EVALUATION, LOCK, RECIPE, REJECTED, SYNTHESIS, RunFolder, locked
from relearn.data.validation import load_all
from relearn.synthesis.generation_cost import check_language, check_remote
from relearn.synthesis.rows import load_generic
from relearn.synthesis.synthesize import synthesize_to_folder
from relearn.synthesis.vague_answers import SELF
from relearn.workflows.run.inputs import with_subjects


def synthesize(
    forget: Path, out: Path, settings: Synthesis, *, generic: Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Write synthesis.jsonl and rejected.jsonl for a forget set into folder `out`; return the counts.

    The generator's answers are cached in out/cache.sqlite, so a repeated call requests only missing ones. Raises
    InputError, before anything is written, for wrong input and for a folder `out` with other content.
    """
    if settings.generator == SELF:
        way_out = "write it into a recipe for relearn run, or give transformers:MODEL"
        raise InputError("the generator self is the start model of a run", where="generator", way_out=way_out)
    folder = RunFolder(out)
    _check_folder(folder.path)
    refuse_overwrite(outputs_in(folder.path), (forget, generic))
    data = load_all(Data.model_validate({"forget": str(forget), "generic": str(generic) if generic else None}))
    check_remote(settings, len(data.forget))
    check_language(settings, data.forget)
    records, generic_records = with_subjects(data).forget, data.generic or load_generic()
    make_private_dir(folder.path)
    with locked(folder), console.stage("write new answers", len(records)) as tick:
        clear_leftovers(folder.path)
        folder.update_manifest()
        return dict(synthesize_to_folder(records, generic_records, settings, out=folder.path, seed=seed, tick=tick))


def _check_folder(path: Path) -> None:
    """Raise InputError for a folder that is neither empty nor written by `synthesize`."""
    if is_new(path):
        return
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    # Version 0.1 wrote no manifest here, but it always wrote the answer cache.
    is_old = CACHE in names and all(name in (SYNTHESIS, REJECTED, LOCK) or name.startswith(CACHE) for name in names)
    if {RECIPE, EVALUATION} & names or not (is_old or is_ours(path)):
        raise InputError("is not empty and holds no synthesis", where=str(path), way_out="choose another --out")
    check_links(path)
