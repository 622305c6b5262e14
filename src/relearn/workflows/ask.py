"""Questions to a finished run: before and after side by side, and the merged model for other tools."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from relearn.core import console
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.run_dir import existing_run, replaced_dir
from relearn.engine.generate import generate
from relearn.inference.run_models import RunModels
from relearn.models.load import check_adapter
from relearn.unlearning.procedures import result_name
from relearn.unlearning.reference_model import adapter_off


def answers_before_and_after(folder: Path, questions: Sequence[str]) -> list[dict[str, str]]:
    """Each question with the answers of the start model and of the unlearned model, as the run's recipe asks them."""
    recipe = recipe_of(folder)
    if any(not question.strip() for question in questions):
        raise InputError("a question is empty")
    models = RunModels(recipe, folder)
    if recipe.unlearn.full:
        before = generate(models.start(), questions, recipe.generate, seed=recipe.seed)
        after = generate(models.unlearned(), questions, recipe.generate, seed=recipe.seed)
    else:
        loaded = models.unlearned()
        with adapter_off(loaded.model):
            before = generate(loaded, questions, recipe.generate, seed=recipe.seed)
        after = generate(loaded, questions, recipe.generate, seed=recipe.seed)
    return [
        {"question": question, "before": first, "after": second}
        for question, first, second in zip(questions, before, after, strict=True)
    ]


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a run folder whose unlearning is done."""
    recipe = Recipe.from_yaml(existing_run(folder, "recipe.yaml") / "recipe.yaml")
    if not (folder / result_name(recipe.unlearn, folder)).exists():
        raise InputError("this run has not unlearned yet", where=str(folder), way_out="relearn run RECIPE --resume")
    return recipe


def print_side_by_side(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(show_lines=True, expand=True)
    for name, width in (("question", 2), ("before", 3), ("after", 3)):
        table.add_column(name, ratio=width, overflow="fold")
    for row in rows:
        table.add_row(*(escape(console.visible(row[name])) for name in ("question", "before", "after")))
    console.out.print(table)


def export_adapter(folder: Path, out: Path) -> None:
    """Copy the run's LoRA adapter to the new folder `out`. Raises InputError for a run without one."""
    recipe = _recipe_to_export(folder, out)
    result = result_name(recipe.unlearn, folder)
    if result != "adapter":
        raise InputError(f"this run has no adapter but {result}/", where=str(folder), way_out="leave out --adapter")
    check_adapter(folder / "adapter")
    with replaced_dir(out) as target:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(folder / "adapter" / name, target / name)


def _recipe_to_export(folder: Path, out: Path) -> Recipe:
    if out.exists():
        raise InputError("is there already", where=str(out), way_out="name a new folder")
    return recipe_of(folder)


def export_merged(folder: Path, out: Path) -> None:
    """Save the run's model with the adapter folded into the weights: safetensors, tokenizer, chat template."""
    recipe = _recipe_to_export(folder, out)
    # An adapter that is folded into 4-bit weights is rounded away.
    whole = recipe.model_copy(update={"model": recipe.model.model_copy(update={"quantization": "none"})})
    loaded = RunModels(whole, folder).unlearned()
    model = loaded.model.merge_and_unload() if hasattr(loaded.model, "merge_and_unload") else loaded.model
    with replaced_dir(out) as target:
        model.save_pretrained(str(target), safe_serialization=True)
        loaded.tokenizer.save_pretrained(str(target))
