"""What a run was made with: versions, machine, hashes of its inputs."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import relearn
from relearn.config import Recipe
from relearn.rundir import file_hash

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "spacy", "numpy")
# They change a number only on a GPU, and only where they are installed.
KERNELS = ("bitsandbytes", "liger-kernel", "flash-attn")


def versions() -> dict[str, Any]:
    """Versions of relearn, Python and the packages that can change a number; the source revision if there is one."""
    found = {"relearn": relearn.__version__, "python": platform.python_version(), "platform": platform.platform()}
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
