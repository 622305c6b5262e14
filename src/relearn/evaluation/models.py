"""The models of an evaluation: looked at before anything is written, in memory one at a time."""

from __future__ import annotations

import gc
import hashlib
from pathlib import Path

from relearn.core.config import Model
from relearn.core.errors import InputError
from relearn.core.run_dir import file_hash
from relearn.inference.run_models import put_adapter
from relearn.models.builtin import builtin_path, find_builtin, is_builtin
from relearn.models.load import Loaded, check_adapter, load
from relearn.models.machine import check_machine

# What a model is loaded from; a folder may hold anything else beside it.
_LOADED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def check_model(spec: Model, option: str) -> None:
    """Raises InputError for a model that cannot be loaded, as far as that can be told without loading it."""
    check_machine(spec.model_copy(update={"adapter": None}))
    for adapter in spec.adapters:
        check_adapter(Path(adapter).expanduser())
    if is_builtin(spec.name):
        builtin_path(spec.name)
        return
    folder = Path(spec.name).expanduser()
    if folder.is_dir():
        _check_folder(folder, option)
    elif folder.exists() or spec.name.startswith((".", "~", "/")) or spec.name.count("/") > 1:
        raise InputError(
            "no such model folder", where=f"{option} {spec.name}",
            way_out="give smollm2-135m-instruct, a folder saved by save_pretrained, or a name on the hub",
        )  # fmt: skip


def _check_folder(folder: Path, option: str) -> None:
    where = f"{option} {folder}"
    if (folder / "recipe.yaml").exists() and (folder / "manifest.json").exists():
        raise InputError(
            "is a run folder, not a model", where=where,
            way_out=f"relearn evaluate {folder}, or {option} MODEL with {option}-adapter {folder / 'adapter'}",
        )  # fmt: skip
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise InputError("is an adapter, not a model", where=where,
                         way_out=f"{option} MODEL {option}-adapter {folder}")  # fmt: skip
    if not (folder / "config.json").exists():
        raise InputError("no config.json there", where=where, way_out="give a folder saved by save_pretrained")
    if not any(folder.glob("*.safetensors")):
        raise InputError("no weights in safetensors form there", where=where,
                         way_out="save the model with safe_serialization=True; pickles are not loaded")  # fmt: skip


def fingerprint(spec: Model) -> str | None:
    """One sha256 over what a model and its adapters are loaded from; None for a model of the hub."""
    folders = [Path(adapter).expanduser() for adapter in spec.adapters]
    if find_builtin(spec.name) is None:
        folder = Path(spec.name).expanduser()
        if not folder.is_dir():
            return None
        folders.insert(0, folder)
    lines = [
        f"{file_hash(file)}  {number}/{file.name}\n"
        for number, folder in enumerate(folders)
        for file in sorted({file for pattern in _LOADED for file in folder.glob(pattern)})
    ]
    return hashlib.sha256(f"{spec.name}\n{''.join(lines)}".encode()).hexdigest()


class Models:
    """Holds the model asked for last; asking for another lets go of it first."""

    def __init__(self) -> None:
        self._held: tuple[Model, Loaded] | None = None

    def get(self, spec: Model) -> Loaded:
        if self._held is None or self._held[0] != spec:
            self.release()
            self._held = (spec, _load(spec))
        return self._held[1]

    def release(self) -> None:
        self._held = None
        gc.collect()


def _load(spec: Model) -> Loaded:
    """The last adapter stays on top of the weights, as it is served and as a run asks it; those below are merged in.

    What is folded into 16-bit weights is rounded, and with it what unlearning has changed.
    """
    *below, last = (None, *spec.adapters)
    loaded = load(spec.model_copy(update={"adapter": tuple(filter(None, below)) or None}))
    if last is None:
        return loaded
    try:
        return put_adapter(loaded, Path(last).expanduser())
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"adapter does not fit the model: {str(error).strip()[:200]}", where=last) from None
