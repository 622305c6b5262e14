"""The models of a run, in memory one at a time.

The models of an audit, each loaded anew when asked for: an attack may spoil what it is given.

start: what knew the facts. after: unlearned, with the adapter merged into the weights, as it would be handed out.
control: a model that never saw the facts, against which guessing is told from knowing.

The models of an evaluation: looked at before anything is written, in memory one at a time.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from relearn.core.config import Model, Recipe
from relearn.core.errors import InputError
from relearn.core.run_dir import existing_run, file_hash
from relearn.models.builtin import builtin_path, find_builtin, is_builtin
from relearn.models.load import Loaded, check_adapter, check_machine, load
from relearn.unlearning.inference_time.eco_model import load_eco
from relearn.unlearning.inference_time.offset import load_offset
from relearn.unlearning.procedures import result_name

ModelName = Literal["start", "after", "control"]
MODELS: tuple[ModelName, ...] = ("start", "after", "control")


class RunModels:
    """Base, start and unlearned model of a run folder. Asking for one lets go of the others.

    base: before any fine-tuning, `metrics.base_model` or the recipe's model without adapters; start: with the user's
    adapter and what the run learned merged in; unlearned: start with the run's adapter on top, not merged, or with what
    an inference-time method puts in front of it.
    """

    def __init__(self, recipe: Recipe, folder: Path):
        self._recipe = recipe
        self._folder = folder
        self._held: tuple[str, Loaded] | None = None

    def base(self) -> Loaded:
        recipe = self._recipe
        if recipe.metrics.base_model:
            spec = recipe.model.model_copy(
                update={"name": recipe.metrics.base_model, "adapter": None, "revision": None}
            )
        else:
            spec = recipe.model.model_copy(update={"adapter": None})
        return self._hold("base", lambda: load(spec))

    def start_to_learn(self) -> Loaded:
        """The recipe's model as given, from which the start model is to be made."""
        return self._hold("given", lambda: load(self._recipe.model))

    def start(self) -> Loaded:
        return self._hold("start", self._load_start)

    def unlearned(self) -> Loaded:
        return self._hold("unlearned", self._load_unlearned)

    def release(self) -> None:
        """Forget the model in memory; training changes it, so what comes after starts from disk."""
        if self._held is not None:
            self._held = None
            gc.collect()

    def _hold(self, name: str, make: Callable[[], Loaded]) -> Loaded:
        if self._held is None or self._held[0] != name:
            self.release()
            self._held = (name, make())
        return self._held[1]

    def _load_start(self) -> Loaded:
        learned = (self._folder / "start",) if self._recipe.learn else ()
        return load(self._recipe.model, adapters=learned)

    def _load_unlearned(self) -> Loaded:
        """By what the run folder holds."""
        result = self._folder / result_name(self._recipe.unlearn, self._folder)
        if result.name == "model":
            spec = self._recipe.model.model_copy(update={"name": str(result), "adapter": None, "revision": None})
            return load(spec)
        if result.name == "offset":
            return load_offset(self._load_start(), self._recipe.model, result)
        if result.name == "eco":
            return load_eco(self._load_start(), result)
        return put_adapter(self._load_start(), result)


def put_adapter(loaded: Loaded, adapter: Path) -> Loaded:
    """The model with an adapter that can be switched off again."""
    from peft import PeftModel

    check_adapter(adapter)
    loaded.model = PeftModel.from_pretrained(loaded.model, str(adapter), use_safetensors=True).eval()
    return loaded


class AuditModels:
    """The models of the run in `folder`. `control` is the folder of a model, an adapter or a run; None: the base."""

    def __init__(self, recipe: Recipe, folder: Path, control: Path | None = None):
        self._recipe = recipe
        self._folder = folder
        self._control = control
        if control is not None:
            self._control_kind = _kind_of(control)
            if self._control_kind == "run":
                self._control_recipe(control)

    @property
    def roles(self) -> Sequence[ModelName]:
        return MODELS

    @property
    def control_name(self) -> str:
        if self._control is None:
            return f"{self._recipe.metrics.base_model or self._recipe.model.name} before any fine-tuning"
        return self._control.name

    @property
    def has_adapter(self) -> bool:
        """Whether the unlearned model is the start model with an adapter that could be taken off."""
        return result_name(self._recipe.unlearn, self._folder) == "adapter"

    def fresh(self, name: ModelName, share: float = 1.0) -> Loaded:
        """The model `name`; `share` is the strength of the unlearning adapter, merged at 1."""
        gc.collect()
        if name == "start":
            return RunModels(self._recipe, self._folder).start()
        if name == "control":
            return self._load_control()
        if not self.has_adapter:
            return RunModels(self._recipe, self._folder).unlearned()
        start = RunModels(self._recipe, self._folder).start()
        loaded = put_adapter(start, self._folder / "adapter")
        scale_adapter(loaded.model, share)
        loaded.model = loaded.model.merge_and_unload().eval()
        return loaded

    def maker(self, name: ModelName) -> Callable[..., Loaded]:
        return lambda **options: self.fresh(name, **options)

    def _load_control(self) -> Loaded:
        if self._control is None:
            return RunModels(self._recipe, self._folder).base()
        if self._control_kind == "run":
            return AuditModels(self._control_recipe(self._control), self._control).fresh("after")
        if self._control_kind == "model":
            return load(self._recipe.model.model_copy(update={"name": str(self._control), "adapter": None}))
        return load(self._recipe.model, adapters=(self._control,))

    def _control_recipe(self, control: Path) -> Recipe:
        """The control run's own recipe. A model that it alone names is not loaded without asking."""
        recipe = Recipe.from_yaml(control / "recipe.yaml")
        if recipe.model.name != self._recipe.model.name or recipe.model.trust_remote_code:
            raise InputError(
                f"rests on the model {recipe.model.name!r}, which is not loaded without asking",
                where=str(control),
                way_out=f"make a model of it, relearn export {control} --merged, and give that with --control",
            )
        return recipe


def scale_adapter(model: Any, share: float) -> None:
    """Multiply what every LoRA layer adds by `share`."""
    for layer in model.modules():
        scaling = getattr(layer, "scaling", None)
        if isinstance(scaling, dict):
            for name in scaling:
                scaling[name] *= share


def _kind_of(control: Path) -> str:
    for file, kind in (("recipe.yaml", "run"), ("adapter_config.json", "adapter"), ("config.json", "model")):
        if (control / file).exists():
            if kind == "run":
                existing_run(control)
            return kind
    raise InputError(
        "holds neither a run, an adapter nor a model",
        where=str(control),
        way_out="--control takes a folder that has recipe.yaml, adapter_config.json or config.json",
    )


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
            "no such model folder",
            where=f"{option} {spec.name}",
            way_out="give smollm2-135m-instruct, a folder saved by save_pretrained, or a name on the hub",
        )


def _check_folder(folder: Path, option: str) -> None:
    where = f"{option} {folder}"
    if (folder / "recipe.yaml").exists() and (folder / "manifest.json").exists():
        raise InputError(
            "is a run folder, not a model",
            where=where,
            way_out=f"relearn evaluate {folder}, or {option} MODEL with {option}-adapter {folder / 'adapter'}",
        )
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise InputError("is an adapter, not a model", where=where, way_out=f"{option} MODEL {option}-adapter {folder}")
    if not (folder / "config.json").exists():
        raise InputError("no config.json there", where=where, way_out="give a folder saved by save_pretrained")
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            "no weights in safetensors form there",
            where=where,
            way_out="save the model with safe_serialization=True; pickles are not loaded",
        )


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
