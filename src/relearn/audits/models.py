"""The models of an audit, each loaded anew when asked for: an attack may spoil what it is given.

start: what knew the facts. after: unlearned, with the adapter merged into the weights, as it would be handed out.
control: a model that never saw the facts, against which guessing is told from knowing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from relearn.audits.attack import MODELS, ModelName
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.run_dir import existing_run
from relearn.inference.run_models import RunModels, put_adapter
from relearn.models.load import Loaded, load
from relearn.unlearning.procedures import result_name


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
        return result_name(self._recipe.unlearn) == "adapter"

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
        "holds neither a run, an adapter nor a model", where=str(control),
        way_out="--control takes a folder that has recipe.yaml, adapter_config.json or config.json",
    )  # fmt: skip
