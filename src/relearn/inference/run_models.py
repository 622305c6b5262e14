"""The models of a run, in memory one at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

from relearn.core.config import Recipe
from relearn.models.load import Loaded, check_adapter, load
from relearn.unlearning.inference_time.eco_model import load_eco
from relearn.unlearning.inference_time.offset import load_offset
from relearn.unlearning.procedures import result_name


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
        result = self._folder / result_name(self._recipe.unlearn)
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
