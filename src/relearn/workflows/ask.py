"""Generate answers with the start and the unlearned model of a finished run; export the unlearned model or adapter."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from relearn.core import console
from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.core.files import replaced_dir
from relearn.core.run_dir import ADAPTER, RunFolder
from relearn.engine.generate import CUT_OFF, respond
from relearn.inference.run_models import ModelSet
from relearn.models.load import Loaded, load, save_like
from relearn.models.lora import check_adapter, check_logits, merge, probe_ids, probe_logits
from relearn.unlearning.procedures import result_name
from relearn.unlearning.reference_model import adapter_off


def answers_before_and_after(
    folder: Path, questions: Sequence[str], *, trust_remote_code: bool = False
) -> list[dict[str, str]]:
    """Generate answers to each question with the start and the unlearned model of a run, with the run's settings.

    `trust_remote_code`: run code from the repository of the model, here and in the other functions of this module.
    Raises InputError for an empty question and for a run that has not unlearned yet.
    """
    recipe = recipe_of(folder, trust_remote_code=trust_remote_code)
    if any(not question.strip() for question in questions):
        raise InputError("a question is empty")
    models = ModelSet.of_run(recipe, folder)

    def shown(loaded: Loaded) -> list[str]:
        responses = respond(loaded, questions, recipe.generate, seed=recipe.seed)
        return [CUT_OFF if response.cut_off else response.text for response in responses]

    if recipe.unlearn.full:
        before = shown(models.start())
        after = shown(models.unlearned())
    else:
        loaded = models.unlearned()
        with adapter_off(loaded.model):
            before = shown(loaded)
        after = shown(loaded)
    return [
        {"question": question, "before": first, "after": second}
        for question, first, second in zip(questions, before, after, strict=True)
    ]


def export_merged(folder: Path, out: Path, *, trust_remote_code: bool = False) -> None:
    """Save the unlearned model of a run with its adapter merged into the weights (safetensors).

    The weights keep the dtype of the recipe's model; its configuration, tokenizer and chat template are copied. The
    saved model is loaded once and must give the logits of the run. Raises InputError if `out` exists or the run has not
    unlearned yet, and RunFailedError if the logits differ by more than rounding.
    """
    _check_new(out)
    recipe = recipe_of(folder, trust_remote_code=trust_remote_code)
    # Merging into 4-bit weights would lose the adapter by rounding.
    spec = recipe.model.model_copy(update={"quantization": "none"})
    loaded = ModelSet.of_run(recipe.model_copy(update={"model": spec}), folder).unlearned()
    model = loaded.model
    if getattr(model, "takes_rows", False):
        model.save_pretrained()  # Raises InputError: an inference-time method has no weights of its own.
    ids = probe_ids(model)
    expected = probe_logits(model, ids)
    if hasattr(model, "merge_and_unload"):
        model = merge(model, str(folder))
    with replaced_dir(out) as target:
        dtype = save_like(model, spec, target)
        del model, loaded
        saved = load(spec.model_copy(update={"name": str(target), "adapter": None, "revision": None}))
        found = probe_logits(saved.model, ids)
        check_logits(found, expected, dtype, where=str(out))


def export_adapter(folder: Path, out: Path) -> None:
    """Copy the run's LoRA adapter to the new folder `out`. Raises InputError if `out` exists or there is no adapter."""
    _check_new(out)
    run = RunFolder(folder)
    result = run.require_result(result_name(run.recipe.unlearn, folder))
    if result != ADAPTER:
        raise InputError(f"this run has no adapter but {result}/", where=str(folder), way_out="leave out --adapter")
    check_adapter(folder / ADAPTER)
    with replaced_dir(out) as target:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(folder / ADAPTER / name, target / name)


def _check_new(out: Path) -> None:
    if out.exists():
        raise InputError("is there already", where=str(out), way_out="name a new folder")


def recipe_of(folder: Path, *, trust_remote_code: bool = False) -> Recipe:
    """Read the recipe of a run folder to load its models. Raises InputError if the run has not unlearned yet."""
    run = RunFolder(folder)
    recipe = run.recipe_to_load(trust_remote_code=trust_remote_code)
    run.require_result(result_name(recipe.unlearn, folder))
    return recipe


def print_side_by_side(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table with the columns question, before and after."""
    table = Table(show_lines=True, expand=True)
    for name, width in (("question", 2), ("before", 3), ("after", 3)):
        table.add_column(name, ratio=width, overflow="fold")
    for row in rows:
        table.add_row(*(Text(console.visible(row[name])) for name in ("question", "before", "after")))
    console.out.print(table)
