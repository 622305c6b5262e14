"""Offset unlearning (arXiv 2404.11045): a small model's adapter is trained through the logits of the ensemble.

The large model and the original small one are run without gradient, once for every row of the plan before the first
step where the states fit into memory, else with every step. The small original is the small model with its adapter off.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from relearn.core import distributed
from relearn.core.config import Model, Unlearn
from relearn.core.errors import InputError
from relearn.core.run_dir import remove_tree, replaced_dir
from relearn.models.load import load, load_tokenizer
from relearn.models.lora import add_lora
from relearn.unlearning import train
from relearn.unlearning.inference_time.methods import Offset
from relearn.unlearning.inference_time.offset import Ensemble, check_tokenizers, save_offset, small_spec
from relearn.unlearning.method import METHODS
from relearn.unlearning.procedures import Job, procedure
from relearn.unlearning.reference_model import mixed
from relearn.unlearning.step import needed_rows

RESULT = "offset"


def _check(model: Model, settings: Unlearn) -> None:
    name = _small_name(settings)
    if settings.full:
        raise InputError("offset trains an adapter of the small model", where="unlearn.full", way_out="leave it out")
    if distributed.shards_weights():
        raise InputError("offset runs three models that FSDP cannot split", way_out="use DDP, recipes/accelerate/")
    check_tokenizers(load_tokenizer(model), load_tokenizer(small_spec(model, name)), name)


@procedure("offset", result=RESULT, check=_check)
def offset(job: Job) -> None:
    """Train the small model and write offset/: its adapter, and offset.json."""
    _check(job.model, job.settings)
    chosen = _chosen(job.settings)
    name = _small_name(job.settings)
    small = load(small_spec(job.model, name))
    adapted = add_lora(small.model, job.settings.lora, seed=job.seed)
    ensemble = Ensemble(job.loaded.model, adapted, chosen.alpha)
    options = {**METHODS.get(job.settings.method).defaults, **job.settings.options}
    settings = job.settings.model_copy(
        update={"method": options["objective"], "options": dict(options["objective_options"])}
    )
    inner = replace(job, settings=settings)
    # In the precision of the pass with the adapter, or their difference would be rounding.
    with mixed(job.loaded.device, settings.precision == "bfloat16"):
        ensemble.remember(_rows(inner, chosen))
    train.trained(inner, model=ensemble, name=RESULT)
    with replaced_dir(job.folder / RESULT) as target:
        save_offset(target, ensemble, name, objective=options["objective"])
    remove_tree(job.folder / train.CHECKPOINTS)


def _chosen(settings: Unlearn) -> Offset:
    chosen = METHODS.get(settings.method).objective(settings.options)
    assert isinstance(chosen, Offset)
    return chosen


def _small_name(settings: Unlearn) -> str:
    name = _chosen(settings).small
    if not name:
        raise InputError(
            "offset needs a small model with the tokenizer of the large one", where="unlearn.options.small",
            way_out="give a built-in name, a folder, or a name on the hub",
        )  # fmt: skip
    return name


def _rows(job: Job, chosen: Offset) -> list[Any]:
    """The rows of all streams of the plan that the objective needs."""
    method = METHODS.get(job.settings.method)
    batches = train.unlearn_batches(job.loaded.chat, method, job.material, job.settings, job.seed)
    return needed_rows(batches, chosen)
