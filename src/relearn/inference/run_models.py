"""Load the models of a run, an audit or an evaluation; keep one in memory at a time.

`ModelSet.of_run`, `of_pair` and `of_evaluation` build a model set. A model is loaded when it is first requested.

base       model before any fine-tuning (`metrics.base_model`, or the recipe's model without adapters)
original   the recipe's model with the user's adapter merged
start      start model, trained on the facts to forget: original with the adapter of the learn stage merged
unlearned  unlearned model: start with the run's adapter, not merged, or with an inference-time method
after      unlearned model as published: the adapter is merged into the weights
control    control model, not trained on the facts; its scores show what guessing achieves
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from relearn.core.config import Model, Recipe
from relearn.core.errors import InputError
from relearn.core.files import file_hash, files_hash, read_json
from relearn.core.run_dir import ADAPTER, ECO, MANIFEST, MODEL, OFFSET, RECIPE, START, RunFolder, refuse_changes
from relearn.models.builtin import builtin_path, find_builtin, is_builtin
from relearn.models.load import Loaded, chat_of, check_checkpoint, check_machine, load, load_tokenizer
from relearn.models.lora import attach_adapter, merge
from relearn.unlearning.inference_time.eco_model import load_eco
from relearn.unlearning.inference_time.offset import load_offset
from relearn.unlearning.procedures import result_name

ModelName = Literal["start", "after", "control"]
MODELS: tuple[ModelName, ...] = ("start", "after", "control")
NO_CONTROL = "none was given"


class ModelSet:
    """Load models by name and keep the last one in memory; a request for another model frees it first.

    `loaders`: name -> call that loads the model. Names with equal calls share the model in memory. `has_adapter`:
    whether "after" is the start model with an adapter; `fresh("after", share=...)` can then scale the adapter.
    `control_spec`: settings with which the control model could be loaded by name; None if there are none.
    """

    def __init__(
        self,
        *,
        loaders: Mapping[str, partial[Loaded]],
        control_name: str = "",
        has_adapter: bool = False,
        control_spec: Model | None = None,
    ):
        self.control_name = control_name
        self._control_spec = control_spec
        self.has_adapter = has_adapter
        self._loaders = loaders
        self._held: tuple[tuple[Any, ...], Loaded] | None = None

    @classmethod
    def of_run(cls, recipe: Recipe, folder: Path, *, control: Path | None = None) -> ModelSet:
        """Build the model set of the run in run folder `folder`.

        `control`: folder of a run, an adapter or a model. None uses the base model, if it is known: without `learn`,
        adapter and `metrics.base_model`, the recipe names only the model that knows the facts, and there is no control.
        Raises InputError if `control` is none of these, a run with another model, or where a model has changed since
        the run began.
        """
        recipe = recipe.model_copy(update={"model": dated(recipe.model, folder)})
        check_models(RunFolder(folder), recipe)
        loaders = {
            "base": partial(_load_base, recipe),
            "original": partial(load, recipe.model),
            "start": partial(_load_start, recipe, folder),
            "unlearned": partial(_load_unlearned, recipe, folder),
            "after": partial(_load_merged, recipe, folder),
        }
        control_name = NO_CONTROL
        if control is not None:
            loaders["control"], control_name = _control_loader(recipe, control), control.name
        elif has_base_model(recipe):
            base_name = recipe.metrics.base_model or recipe.model.name
            loaders["control"], control_name = loaders["base"], f"{base_name} before any fine-tuning"
        has_adapter = result_name(recipe.unlearn, folder) == "adapter"
        spec = _control_spec(recipe, control) if "control" in loaders else None
        return cls(loaders=loaders, control_name=control_name, has_adapter=has_adapter, control_spec=spec)

    @classmethod
    def of_pair(cls, folder: Path, *, before: Model, after: Model, control: Model | None = None) -> ModelSet:
        """Build the model set of the audit of two models, and an optional control, in `folder`; adapters are merged."""
        named = {"start": before, "after": after, "control": control}
        specs = {name: dated(spec, folder) for name, spec in named.items() if spec is not None}
        loaders = {name: partial(_load_scaled, spec) for name, spec in specs.items()}
        control_name = NO_CONTROL if control is None else control.name
        has_adapter, spec = bool(after.adapters), specs.get("control")
        return cls(loaders=loaders, control_name=control_name, has_adapter=has_adapter, control_spec=spec)

    @classmethod
    def of_evaluation(cls, specs: Mapping[str, Model], folder: Path, *, base: Model | None = None) -> ModelSet:
        """Build the model set of the evaluation in `folder`: "before", "after" and base.

        The last adapter of each model is not merged.
        """
        named = {name: dated(spec, folder) for name, spec in {**specs, "base": base}.items() if spec is not None}
        return cls(loaders={name: partial(_load_adapted, spec) for name, spec in named.items()})

    @property
    def roles(self) -> list[ModelName]:
        """Return the names of the audit models in this set."""
        return [name for name in MODELS if name in self._loaders]

    @cached_property
    def control_hash(self) -> str | None:
        """Compute a sha256 over the files, settings and prompt format of the control model; None if not possible."""
        spec = self._control_spec
        if spec is None or (files := fingerprint(spec)) is None:
            return None
        # The prompt contains the date where the template does; the date alone changes nothing.
        prompt = chat_of(load_tokenizer(spec), spec).prompt("", "chat")
        settings = spec.model_copy(update={"date": None}).identity
        return hashlib.sha256(json.dumps([files, settings, prompt]).encode()).hexdigest()

    def get(self, name: str) -> Loaded:
        """Return the model `name`; load it unless it is in memory."""
        loader = self._loaders[name]
        source = loader.func, loader.args, loader.keywords
        if self._held is None or self._held[0] != source:
            self.release()
            self._held = source, loader()
        return self._held[1]

    def base(self) -> Loaded:
        return self.get("base")

    def original(self) -> Loaded:
        """Return the recipe's model with the user's adapter, from which the learn stage trains the start model."""
        return self.get("original")

    def start(self) -> Loaded:
        return self.get("start")

    def unlearned(self) -> Loaded:
        return self.get("unlearned")

    def fresh(self, name: str, **options: float) -> Loaded:
        """Load a new copy of a model that is not kept here, so that the caller may change its weights.

        `share` (only for "after"): factor of its last adapter when it is merged; 1 is full strength.
        """
        self.release()
        return self._loaders[name](**options)

    def release(self) -> None:
        """Free the model in memory; the next request loads it from disk."""
        self._held = None
        gc.collect()


def dated(spec: Model, folder: Path) -> Model:
    """Return the settings of a model with the date of a folder, unless they have one."""
    return spec if spec.date else spec.model_copy(update={"date": RunFolder(folder).date})


def has_base_model(recipe: Recipe) -> bool:
    """Return whether the recipe names a model from before the facts were learned."""
    return bool(recipe.learn or recipe.model.adapters or recipe.metrics.base_model)


def base_spec(recipe: Recipe) -> Model:
    """Return the settings of the base model: `metrics.base_model`, or the recipe's model without adapters."""
    changes: dict[str, Any] = {"adapter": None}
    if recipe.metrics.base_model:
        changes |= {"name": recipe.metrics.base_model, "revision": None}
    return recipe.model.model_copy(update=changes)


def _load_base(recipe: Recipe) -> Loaded:
    return load(base_spec(recipe))


def _load_start(recipe: Recipe, folder: Path) -> Loaded:
    return load(recipe.model, adapters=(folder / "start",) if recipe.learn else ())


def _load_unlearned(recipe: Recipe, folder: Path) -> Loaded:
    """Load the unlearned model from its weights, its adapter, or the files of an inference-time method."""
    result = folder / result_name(recipe.unlearn, folder)
    if result.name == "model":
        return load(recipe.model.model_copy(update={"name": str(result), "adapter": None, "revision": None}))
    if result.name == "offset":
        return load_offset(_load_start(recipe, folder), recipe.model, result)
    if result.name == "eco":
        return load_eco(_load_start(recipe, folder), result)
    return put_adapter(_load_start(recipe, folder), result)


def _load_merged(recipe: Recipe, folder: Path, *, share: float = 1.0) -> Loaded:
    """Load the unlearned model; its adapter, if it has one, is scaled by `share` and merged."""
    if result_name(recipe.unlearn, folder) != "adapter":
        return _load_unlearned(recipe, folder)
    return _merge_scaled(_load_start(recipe, folder), folder / "adapter", share)


def _load_scaled(spec: Model, *, share: float = 1.0) -> Loaded:
    """Load a model with its adapters merged; the last adapter is scaled by `share`."""
    if share == 1 or not spec.adapters:
        return load(spec)
    *below, last = spec.adapters
    return _merge_scaled(_load_with(spec, below), Path(last).expanduser(), share)


def _load_adapted(spec: Model) -> Loaded:
    """Load a model with its last adapter not merged and its other adapters merged, as in a run and when served.

    Merging rounds 16-bit weights, and so may lose changes made by unlearning.
    """
    if not spec.adapters:
        return load(spec)
    *below, last = spec.adapters
    return put_adapter(_load_with(spec, below), Path(last).expanduser())


def _load_with(spec: Model, adapters: Sequence[str]) -> Loaded:
    return load(spec.model_copy(update={"adapter": tuple(adapters) or None}))


def put_adapter(loaded: Loaded, adapter: Path) -> Loaded:
    """Add a PEFT adapter without merging it (`attach_adapter`). Raises InputError for one that does not fit."""
    loaded.model = attach_adapter(loaded.model, adapter)
    return loaded


def _merge_scaled(loaded: Loaded, adapter: Path, share: float) -> Loaded:
    """Merge an adapter, scaled by `share`, into the weights."""
    loaded = put_adapter(loaded, adapter)
    for layer in loaded.model.modules():
        scaling = getattr(layer, "scaling", None)
        if isinstance(scaling, dict):
            for name in scaling:
                scaling[name] *= share
    loaded.model = merge(loaded.model, str(adapter))
    return loaded


def _control_loader(recipe: Recipe, control: Path) -> partial[Loaded]:
    if RunFolder(control).has_recipe:
        own = _control_recipe(recipe, control)
        check_models(RunFolder.existing(control), own)
        return partial(_load_merged, own, control)
    if (control / "adapter_config.json").exists():
        return partial(load, recipe.model, adapters=(control,))
    if (control / "config.json").exists():
        return partial(load, recipe.model.model_copy(update={"name": str(control), "adapter": None}))
    raise InputError(
        "holds neither a run, an adapter nor a model",
        where=str(control),
        way_out="--control takes a folder that has recipe.yaml, adapter_config.json or config.json",
    )


def _control_spec(recipe: Recipe, control: Path | None) -> Model | None:
    """Return the settings that load the same control model as `_control_loader`; None for inference-time methods."""
    if control is None:
        return base_spec(recipe)
    if not RunFolder(control).has_recipe:
        if (control / "adapter_config.json").exists():
            return recipe.model.model_copy(update={"adapter": (*recipe.model.adapters, str(control))})
        return recipe.model.model_copy(update={"name": str(control), "adapter": None})
    own = _control_recipe(recipe, control)
    result = result_name(own.unlearn, control)
    if result == "model":
        return own.model.model_copy(update={"name": str(control / result), "adapter": None, "revision": None})
    learned = (str(control / START),) if own.learn else ()
    adapters = (*own.model.adapters, *learned, str(control / result))
    return own.model.model_copy(update={"adapter": adapters}) if result == "adapter" else None


def _control_recipe(recipe: Recipe, control: Path) -> Recipe:
    """Read the recipe of the control run. Raises InputError for another model, or for code that `recipe` forbids."""
    own = RunFolder(control).recipe_to_load(trust_remote_code=recipe.model.trust_remote_code)
    if own.model.name != recipe.model.name:
        raise InputError(
            f"is based on the model {own.model.name!r}, which is not loaded without asking",
            where=str(control),
            way_out=f"make a model of it, relearn export {control} --merged, and give that with --control",
        )
    return own.model_copy(update={"model": own.model.model_copy(update={"date": recipe.model.date})})


# Files that a model is loaded from; its folder may contain other files.
_LOADED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def check_model(spec: Model, option: str) -> None:
    """Raise InputError for a model that cannot be loaded; checks settings and files without loading weights.

    `option`: command-line option that names the model, for messages.
    """
    check_machine(spec.model_copy(update={"adapter": None}))
    folder = Path(spec.name).expanduser()
    if is_builtin(spec.name):
        builtin_path(spec.name)
    elif folder.is_dir():
        _check_folder(folder, option)
    elif folder.exists() or spec.name.startswith((".", "~", "/")) or spec.name.count("/") > 1:
        raise InputError(
            "no such model folder",
            where=f"{option} {spec.name}",
            way_out="give smollm2-135m-instruct, a folder saved by save_pretrained, or a name on the hub",
        )
    check_checkpoint(spec)


def _check_folder(folder: Path, option: str) -> None:
    where = f"{option} {folder}"
    if (folder / RECIPE).exists() and (folder / MANIFEST).exists():
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
    """Compute one sha256 over the files of a model and its adapters; None for a model that is not on this machine."""
    folders = [Path(adapter).expanduser() for adapter in spec.adapters]
    if find_builtin(spec.name) is None:
        folder = Path(spec.name).expanduser()
        if not folder.is_dir():
            folder = _hub_folder(spec)
        if folder is None:
            return None
        folders.insert(0, folder)
    lines = [
        f"{file_hash(file)}  {number}/{file.name}\n"
        for number, folder in enumerate(folders)
        for file in sorted({file for pattern in _LOADED for file in folder.glob(pattern)})
    ]
    return hashlib.sha256(f"{spec.name}\n{''.join(lines)}".encode()).hexdigest()


def loaded_files_hash(folder: Path) -> str | None:
    """Compute one sha256 over the files of a model or adapter folder that are loaded; None where there are none."""
    files = sorted({file for pattern in _LOADED for file in folder.glob(pattern)})
    return files_hash({file.name: file for file in files}) if files else None


def model_files_hash(spec: Model) -> str | None:
    """Compute one sha256 over the files of a model without its adapters; None where it is not on this machine.

    Unlike `fingerprint`, it does not depend on the name or path of the model. A built-in model has a known hash.
    """
    if (builtin := find_builtin(spec.name)) is not None:
        return builtin.sha256
    folder = Path(spec.name).expanduser()
    found = folder if folder.is_dir() else _hub_folder(spec)
    return None if found is None else loaded_files_hash(found)


def _hub_folder(spec: Model) -> Path | None:
    """Find the files of a hub model in the cache; None unless its weights are complete."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(spec.name, "config.json", revision=spec.revision)
    except HFValidationError:
        return None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    index = folder / "model.safetensors.index.json"
    shards = set(read_json(index)["weight_map"].values()) if index.exists() else {"model.safetensors"}
    return folder if all((folder / shard).exists() for shard in shards) else None


def named_fingerprints(specs: Mapping[str, Model]) -> dict[str, str | None]:
    """Compute the fingerprint of each model, and of the code in its folder where that may be run."""
    models = {name: fingerprint(spec) for name, spec in specs.items()}
    folders = {f"{name} (its code)": Path(spec.name) for name, spec in specs.items() if spec.trust_remote_code}
    code = {
        name: files_hash({file.name: file for file in sorted(folder.expanduser().glob("*.py"))})
        for name, folder in folders.items()
    }
    return {**models, **code}


def fingerprints(recipe: Recipe) -> dict[str, str | None]:
    """Compute the fingerprints of all models that a run rests on, by the recipe key that names them."""
    small = recipe.unlearn.options.get("small")
    names = {"metrics.base_model": recipe.metrics.base_model, "unlearn.options.small": small}
    generators = {
        "synthesis.generator": recipe.synthesis.generator,
        "synthesis.judge": recipe.synthesis.judge,
        "metrics.judge": recipe.metrics.judge,
    }
    for key, generator in generators.items():
        kind, _, name = (generator or "").partition(":")
        names[key] = name if kind == "transformers" else None
    specs = {key: Model(name=name) for key, name in names.items() if isinstance(name, str)}
    return named_fingerprints({"model": recipe.model, **specs})


def refuse_changed_models(folder: RunFolder, models: Mapping[str, str | None], *, began: str) -> None:
    """Raise InputError where a fingerprint differs from that in the manifest; `began`: "run" or "evaluation"."""
    where = "the recipe's {}" if began == "run" else "the model {}"
    refuse_changes(folder.manifest.get("models", {}), models, where=where, began=began)


def check_models(folder: RunFolder, recipe: Recipe) -> None:
    """Raise InputError where a model has changed since the run in `folder` began, or a result since it was written."""
    folder.check_files(START, ADAPTER, MODEL, OFFSET, ECO)
    if folder.manifest.get("models"):
        refuse_changed_models(folder, fingerprints(recipe), began="run")
