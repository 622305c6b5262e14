"""Estimate the cost of a run: rows, generator calls, tokens, money, training passes, memory, minutes.

An estimate calls no generator or judge, and sends and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from relearn.audits.attacks.weights import BATCH_SIZE as AUDIT_BATCH
from relearn.core.config import Lora, Recipe
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.data.validation import DataSet, load_all, load_set
from relearn.engine.forward import answer_logprobs
from relearn.metrics.judge_cost import judge_cost
from relearn.models.load import Loaded, empty_model, load, load_tokenizer
from relearn.models.lora import add_lora, expert_parameters, targets
from relearn.synthesis.alternates import expected_alternates, plan_alternates
from relearn.synthesis.generation_cost import empty_plan, expected_rows, plan_synthesis
from relearn.synthesis.rows import load_generic
from relearn.unlearning.data.encode import encode, record_example
from relearn.unlearning.data.streams import ALTERNATE_SOURCES, is_written
from relearn.unlearning.method import METHODS
from relearn.unlearning.train import training_passes
from relearn.workflows.audit import estimate_audit
from relearn.workflows.run.pipeline import STAGES

_GIB = 1 << 30
_ADAM_BYTES = 16
_ACTIVATION_FACTOR = 34
# Measured with the demo model on 2 cores: the time of a training pass and of an answer, in forward passes of one row,
# and the seconds for loading models and judges.
PASS_FORWARDS = 3.0
ASK_FORWARDS = 4.0
FIXED_SECONDS = 30


@dataclass(frozen=True)
class MemoryEstimate:
    """Hold the peak memory of training in bytes: weights, trained part (gradients, Adam's moments), activations."""

    parameters: int
    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.activations

    def line(self) -> str:
        return (
            f"Memory: about {self.total / _GIB:.1f} GiB ({self.parameters / 1e6:,.0f} M parameters: weights "
            f"{self.weights / _GIB:.1f}, trained part {self.trained / _GIB:.1f}, activations "
            f"{self.activations / _GIB:.1f})"
        )


def plan_lines(recipe: Recipe) -> list[str]:
    """Describe the estimated cost of a recipe and every check of `relearn run` that fails, one line each."""
    data = load_all(recipe.data)
    tokenizer = _tokenizer(recipe)
    generic = data.generic or tuple(load_generic())
    lines = [f"Records: {_sets(data)}", *_writing_lines(recipe, data, len(generic), tokenizer)]
    lines.append(_training_line(recipe, data, len(generic)))
    if work := estimate_audit(recipe, data):
        lines.append(f"Audit: strength {recipe.audit}, {work.line()}")
    if experts := _expert_line(recipe):
        lines.append(experts)
    memory = estimate_memory(recipe)
    lines.append(memory.line() if memory else "Memory: unknown (the model is not on this machine)")
    return lines + [f"Note: {note}" for note in data.notes] + _refusals(recipe, data)


def _refusals(recipe: Recipe, data: DataSet) -> list[str]:
    """List the input checks that fail, except missing permissions, which `_writing_lines` lists."""
    update = {"allow_remote": True}
    synthesis, metrics = recipe.synthesis.model_copy(update=update), recipe.metrics.model_copy(update=update)
    permitted = recipe.model_copy(update={"synthesis": synthesis, "metrics": metrics})
    problems = []
    for stage in STAGES:
        try:
            stage.check(permitted, data)
        except InputError as error:
            problems.append(f"The run will refuse: {error}")
    return list(dict.fromkeys(problems))


def estimate_memory(recipe: Recipe) -> MemoryEstimate | None:
    """Estimate the peak memory of training from the model's configuration; None if that is not available."""
    model = empty_model(recipe.model)
    if model is None:
        return None
    config, settings = model.config.get_text_config(), recipe.unlearn
    parameters = sum(weight.numel() for weight in model.parameters())
    size = 2 if recipe.model.dtype in ("bfloat16", "float16") or torch.cuda.is_available() else 4
    # The weights of adapted experts are computed, with their adapters, before every pass.
    experts = tuple(expert_parameters(model)) if not settings.full and settings.lora.target == "all-linear" else ()
    computed = sum(weight.numel() for name, weight in model.named_parameters() if experts and name.endswith(experts))
    trained = parameters if settings.full else _lora_parameters(model, settings.lora)
    tokens = min(2 * settings.batch_size * settings.max_length, 4096)
    layers = 1 if settings.gradient_checkpointing else config.num_hidden_layers
    logits = 4 * settings.batch_size * 64 * config.vocab_size * 4
    activations = tokens * config.hidden_size * layers * _ACTIVATION_FACTOR * size // 2 + logits + computed * size
    return MemoryEstimate(parameters, parameters * size, trained * _ADAM_BYTES, activations)


def _expert_line(recipe: Recipe) -> str | None:
    """Describe which share of the weights are experts, and whether they are trained; None for a model without."""
    model = empty_model(recipe.model)
    if model is None or recipe.unlearn.full or not (experts := tuple(expert_parameters(model))):
        return None
    weights = {name: weight.numel() for name, weight in model.named_parameters()}
    share = sum(count for name, count in weights.items() if name.endswith(experts)) / sum(weights.values())
    try:
        adapted = targets(model, recipe.unlearn.lora, "unlearn.lora.target")[1]
    except InputError:
        return None
    how = f"adapters on {', '.join(adapted)}" if adapted else "no adapter: unlearn.lora.target names none of them"
    return f"Experts: {share:.0%} of the weights, {how}"


def _lora_parameters(model: Any, settings: Lora) -> int:
    """Count the trained weights; 0 for layers that the model does not have, which `_refusals` reports."""
    try:
        adapted = add_lora(model, settings, seed=0)
    except InputError:
        return 0
    return sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)


def _tokenizer(recipe: Recipe) -> Any:
    try:
        return load_tokenizer(recipe.model)
    except InputError:
        return None


def _sets(data: DataSet) -> str:
    return ", ".join(f"{len(records):,} {name.replace('_', ' ')}" for name, records in data.sets())


def _writing_lines(recipe: Recipe, data: DataSet, generic: int, tokenizer: Any) -> list[str]:
    """Describe the calls of generator and judges, their cost, and the records that would be sent to them."""
    source = METHODS.get(recipe.unlearn.method).source(recipe.unlearn.options)
    named = {"tokenizer": tokenizer, "prices": recipe.prices}
    lines = []
    if not is_written(source):
        written = empty_plan(**named)
        lines.append(f"Answers: {source.replace('_', ' ')}, nothing to be written")
    elif source in ALTERNATE_SOURCES:
        written = plan_alternates(data.forget, recipe.synthesis, **named)
    else:
        written = plan_synthesis(data.forget, recipe.synthesis, generic=generic, **named)
    spent, sent = judge_cost(recipe, data, tokenizer)
    whole = replace(written, spending=(*written.spending, *spent), sent=(*written.sent, *sent))
    allowed = {
        "synthesis.allow_remote": recipe.synthesis.allow_remote,
        "metrics.allow_remote": recipe.metrics.allow_remote,
    }
    missing = sorted({one.allowed_by for one in whole.sent if not allowed[one.allowed_by]})
    return [*lines, *whole.lines(), *(f"That needs {key}: true; the run will refuse without it" for key in missing)]


def _training_line(recipe: Recipe, data: DataSet, generic: int) -> str:
    learned = len(load_set(recipe.learn.data, "retain", "learn.data")[0]) if recipe.learn else 0
    first = f"{learned:,} rows to learn first, " if learned else ""
    if recipe.unlearn.token_budget:
        return f"Training: {first}then {recipe.unlearn.token_budget:,} tokens of forget and retain rows"
    rows = forget_rows(recipe, data, generic)
    passes = training_passes(recipe, learned, rows, len(data.retain) or 1)
    return f"Training: {first}{rows:,} forget rows with as many retain rows beside them, about {passes:,} row passes"


def forget_rows(recipe: Recipe, data: DataSet, generic: int) -> int:
    """Estimate the number of forget rows in one epoch of the recipe's method."""
    source = METHODS.get(recipe.unlearn.method).source(recipe.unlearn.options)
    rows = expected_rows(data.forget, recipe.synthesis, generic)
    if source in ("synthesised", "original_beside_synthesised"):
        return sum(rows.values())
    if source == "preferred_synthesised":
        return rows["qa"]
    return expected_alternates(data.forget) if source == "preferred_alternates" else len(data.forget)


def estimate_minutes(recipe: Recipe) -> float:
    """Estimate the minutes of a whole run on this machine from a timed forward pass of eight of its rows."""
    data = load_all(recipe.data)
    learned = load_set(recipe.learn.data, "retain", "learn.data")[0] if recipe.learn else ()
    rows = forget_rows(recipe, data, len(data.generic or load_generic()))
    passes = training_passes(recipe, len(learned), rows, len(data.retain))
    asked = sum(len(records) for name, records in data.sets() if name not in ("holdout", "generic"))
    forward = _seconds_forward(load(recipe.model), data.forget[:8])
    asked *= 2 * recipe.generate.repeats
    if work := estimate_audit(recipe, data):
        asked += work.prompts
        passes += work.steps * AUDIT_BATCH
    return (forward * (passes * PASS_FORWARDS + asked * ASK_FORWARDS) + FIXED_SECONDS) / 60


def _seconds_forward(loaded: Loaded, records: Sequence[Record]) -> float:
    """Measure the seconds of one forward pass per row: the best of three passes over `records`."""
    rows = encode(loaded.chat, [record_example(record) for record in records])
    answer_logprobs(loaded.model, rows)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        answer_logprobs(loaded.model, rows)
        times.append(time.perf_counter() - began)
    return min(times) / len(rows)
