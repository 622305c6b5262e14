"""Define the recipe: every setting of a run, read from YAML and validated.

Unknown keys are refused with the nearest known key. The docstrings give the meaning, unit, range and default of every
key; the reference page of the documentation is made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from relearn.core.yaml_config import apply_change, expand, read_mapping, readable


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Lora(Part):
    """LoRA settings, as in PEFT.

    - `r`: rank, at least 1; default 8.
    - `alpha`: scaling numerator, above 0; default 16.
    - `dropout`: probability, from 0 to below 1; default 0.1.
    - `target`: "all-linear" (default; every linear layer but the output layer), or a list of layer names.
    """

    r: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class Model(Part):
    """The model to change; its name alone may be given.

    - `name`: smollm2-135m-instruct (the demo model), a folder, or a name on the hub (`revision`: its commit); required.
    - `adapter`: folder of a LoRA adapter to merge first, or a list of them, merged in order; default none.
    - `dtype`: auto (default; by device), float32, bfloat16 or float16.
    - `device`: auto (default; the GPU if there is one), cpu, cuda, cuda:N.
    - `attention`: auto (default), sdpa, eager or flash_attention_2.
    - `quantization`: none (default) or nf4 (frozen weights in 4 bits, QLoRA).
    - `liger`: fused Liger kernels: auto (default; where installed, on a GPU), on, off.
    - `chat_template`: auto (default; the tokenizer's) or none (a plain question-answer form).
    - `system_prompt`: text; default: that of the chat template; "" is an empty one.
    - `trust_remote_code`: run code of the model's repository; default false.
    """

    name: str
    revision: str | None = None
    adapter: str | tuple[str, ...] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    quantization: Literal["none", "nf4"] = "none"
    liger: Literal["auto", "on", "off"] = "auto"
    chat_template: Literal["auto", "none"] = "auto"
    system_prompt: str | None = None
    trust_remote_code: bool = False

    @field_validator("liger", mode="before")
    @classmethod
    def _word_for_boolean(cls, value: Any) -> Any:
        """Undo YAML's reading of a bare on and off as true and false."""
        return ("on" if value else "off") if isinstance(value, bool) else value

    @property
    def adapters(self) -> tuple[str, ...]:
        return (self.adapter,) if isinstance(self.adapter, str) else self.adapter or ()


class DataSource(Part):
    """A source of records; its path alone may be given.

    - `path`: a file (.jsonl, .json, .csv, .parquet), a folder, or a data set on the hub; required.
    - `map`: names of the columns, such as {question: text, answer: labels}; default: known names are recognised.
    - `name`, `split`: configuration and split of a data set on the hub; default: the only one.
    - `subjects`: keep only rows whose question contains one of these names; default: all rows.
    - `limit`: then keep the first rows, at least 1; default: all rows.
    - `chunk_words`: words per record of a document, at least 8; default 128.
    """

    path: str
    map: dict[str, str] = Field(default_factory=dict)
    name: str | None = None
    split: str | None = None
    limit: int | None = Field(default=None, ge=1)
    subjects: tuple[str, ...] = ()
    chunk_words: int = Field(default=128, ge=8)


Sources = tuple[DataSource, ...]


def _as_sources(value: Any) -> Any:
    """Turn one path, one mapping or a list of either into a list of sources."""
    if value is None:
        return ()
    entries = value if isinstance(value, list | tuple) else [value]
    return tuple({"path": entry} if isinstance(entry, str) else entry for entry in entries)


class Probes(Part):
    """Held-out questions for the facts to `forget` and to `retain`: asked, never trained on; default none."""

    forget: Sources = ()
    retain: Sources = ()

    _listed = field_validator("forget", "retain", mode="before")(_as_sources)


class Utility(Part):
    """The sets `real_authors` and `world_facts` of TOFU's model utility: asked, never trained on; default none."""

    real_authors: Sources = ()
    world_facts: Sources = ()

    _listed = field_validator("real_authors", "world_facts", mode="before")(_as_sources)


class Data(Part):
    """The records of a run. Each key takes a path, a data source, or a list of either.

    - `forget`: records to forget; required.
    - `retain`: records to keep; default: the start model is asked about the neighbourhood of each subject.
    - `holdout`: records like the forget set that no model was trained on, for membership inference; default none.
    - `generic`: general questions mixed into the training; default: those that come with relearn.
    """

    forget: Sources = Field(min_length=1)
    retain: Sources = ()
    holdout: Sources = ()
    generic: Sources = ()
    probes: Probes = Probes()
    utility: Utility = Utility()

    _listed = field_validator("forget", "retain", "holdout", "generic", mode="before")(_as_sources)


class Learn(Part):
    """Make the start model first: fine-tune the model on `data` (benchmarks, the demo). Default: no such stage.

    - `data`: records to learn; required.
    - `without`: records whose questions are left out of `data`, for a model that never knew them; default none.
    - `epochs`: passes over the rows, above 0; default 8.
    - `learning_rate`: peak learning rate, above 0; default 1e-3.
    - `batch_size`, `accumulation`: rows per forward pass, passes per optimiser step, at least 1; default 8 and 1.
    - `precision`: model (default; the dtype of the model) or bfloat16 (mixed precision).
    - `lora`: default r 16, alpha 32, dropout 0.
    """

    data: Sources = Field(min_length=1)
    without: Sources = ()
    epochs: float = Field(default=8, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    batch_size: int = Field(default=8, ge=1)
    accumulation: int = Field(default=1, ge=1)
    precision: Literal["model", "bfloat16"] = "model"
    lora: Lora = Lora(r=16, alpha=32, dropout=0.0)

    _listed = field_validator("data", "without", mode="before")(_as_sources)


Hardening = Literal["cuts", "openings", "stems", "frames"]
VariantKind = Literal["simple", "contextual", "noise", "logical"]


class Synthesis(Part):
    """How the new answers are written.

    - `file`: training rows written elsewhere, which are checked and used instead; default none.
    - `generator`: templates (default; offline), openai:MODEL or transformers:MODEL.
    - `variants`: kinds of question variants: simple, contextual, noise, logical; default all.
    - `attempts`: tries per text, the first included, at least 1; default 3.
    - `judge`: openai:MODEL or transformers:MODEL to check for leaks after the deterministic check; default none.
    - `completions`: also write rows that complete an answer; default true.
    - `completion_split`: share of the answer in their prompts, above 0 and below 1; default 0.25.
    - `generic_ratio`: generic rows per written row, at least 0; default 1.
    - `harden`: kinds of rows shaped like attacks: cuts, openings, stems, frames; default none.
    - `temperature`: sampling temperature of the generator, at least 0; default 0.7.
    - `max_calls`, `max_tokens`: most calls, and tokens of prompts and answers, at least 1; default no limit.
    - `concurrency`: calls at a time, or prompts per batch of a local model, at least 1; default 8.
    - `allow_remote`: allow a generator or judge on another host; default false.
    """

    file: str | None = None
    generator: str = "templates"
    variants: tuple[VariantKind, ...] = ("simple", "contextual", "noise", "logical")
    attempts: int = Field(default=3, ge=1)
    judge: str | None = None
    completions: bool = True
    completion_split: float = Field(default=0.25, gt=0, lt=1)
    generic_ratio: float = Field(default=1.0, ge=0)
    harden: tuple[Hardening, ...] = ()
    temperature: float = Field(default=0.7, ge=0)
    max_calls: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    concurrency: int = Field(default=8, ge=1)
    allow_remote: bool = False


class MaskConfig(Part):
    """Which weights are trained: `name` is sure or memflex, `options` those of the mask. The name alone will do."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Unlearn(Part):
    """The training of the unlearned model. The defaults are those of the paper (arXiv 2502.11190, Table 4).

    - `method`, `options`: a method (`relearn list methods`; default relearn) and its options.
    - `mask`: restrict training to some weights; default none.
    - `epochs`: passes over the rows, above 0; default 3.
    - `token_budget`: train for this many tokens, prompts and answers of all rows, instead of `epochs`; at least 1.
    - `precision`: model (default; the dtype of the model) or bfloat16 (mixed precision).
    - `learning_rate`: peak learning rate, above 0; default 1e-5.
    - `weight_decay`: of AdamW, at least 0; default 0.01.
    - `batch_size`, `accumulation`: forget rows per forward pass, passes per step, at least 1; default 4 and 1.
    - `warmup`: share of the steps with a rising learning rate, from 0 to below 1; default 0.1.
    - `schedule`: linear (default), cosine or constant decay.
    - `max_grad_norm`: gradient clipping, above 0; default 1.
    - `max_length`: most tokens of a row, at least 16; longer rows are refused; default 512.
    - `full`: train all weights instead of an adapter (`lora`); default false.
    - `gradient_checkpointing`: less memory for about a third more time; default false.
    - `evaluate_every`: steps between evaluations while training (default never). `keep_best`: keep the best weights.
    - `trajectory`: steps between rows of trajectory.jsonl (token probabilities of a few answers); default 0, never.
    - `checkpoint_every`: steps between checkpoints, at least 1; default 50.
    - `runaway_loss`: stop with an error above this loss, above 0; default 50 or ten times the first loss.
    - `report_to`: trackers of transformers.Trainer; default none.
    """

    method: str = "relearn"
    options: dict[str, Any] = Field(default_factory=dict)
    mask: MaskConfig | None = None
    epochs: float = Field(default=3, gt=0)
    token_budget: int | None = Field(default=None, ge=1)
    precision: Literal["model", "bfloat16"] = "model"
    learning_rate: float = Field(default=1e-5, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    batch_size: int = Field(default=4, ge=1)
    accumulation: int = Field(default=1, ge=1)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=512, ge=16)
    full: bool = False
    gradient_checkpointing: bool = False
    lora: Lora = Lora()
    evaluate_every: int | None = Field(default=None, ge=1)
    trajectory: int = Field(default=0, ge=0)
    keep_best: bool = False
    checkpoint_every: int = Field(default=50, ge=1)
    runaway_loss: float | None = Field(default=None, gt=0)
    report_to: tuple[str, ...] = ()

    @field_validator("mask", mode="before")
    @classmethod
    def _mask_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Generate(Part):
    """How models are asked.

    - `max_new_tokens`: most tokens of an answer, at least 1; default 128.
    - `batch_size`: most questions answered at a time, at least 1; default: by the machine.
    - `backend`: transformers (default), or vllm (CUDA GPU, the package vllm, a copy of the model).
    - `temperature`: sampling temperature, at least 0; default 0, greedy.
    - `top_p`: share of probability to sample from, above 0 and at most 1; default 1. `top_k`: tokens; default 0, all.
    - `repeats`: answers per question, at least 1; more than 1 needs a temperature above 0; default 1.
    """

    max_new_tokens: int = Field(default=128, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    backend: Literal["transformers", "vllm"] = "transformers"
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    repeats: int = Field(default=1, ge=1)

    @field_validator("repeats")
    @classmethod
    def _only_sampling_repeats(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and not info.data.get("temperature"):
            raise ValueError("greedy answers are the same each time; set generate.temperature above 0")
        return value

    @property
    def once(self) -> Generate:
        """Return the same settings with a single answer per question."""
        return self.model_copy(update={"repeats": 1})


class Ability(Part):
    """General ability, measured before and after unlearning; see docs/benchmarks.md.

    - `tasks`: files of multiple choice or arithmetic questions (.jsonl, .json, .csv, .parquet), or tasks of lm-eval by
      name or task file (.yaml); default none.
    - `limit`: questions of each task, at least 1; default all.
    - `shots`: most solved examples before a question, at least 0; default: all in the file, or lm-eval's number.
    - `batch_size`, `max_new_tokens`: questions at a time, most tokens of an answer, at least 1; default 8 and 256.
    """

    tasks: tuple[str, ...] = ()
    limit: int | None = Field(default=None, ge=1)
    shots: int | None = Field(default=None, ge=0)
    batch_size: int = Field(default=8, ge=1)
    max_new_tokens: int = Field(default=256, ge=1)


class Metrics(Part):
    """Thresholds and judges of the metrics. The default thresholds are those of the paper.

    - `base_model`: the model before any fine-tuning, for perplexity and LS; default: `model` without adapters.
    - `c1`, `c2`: KFR counts entity coverage below c1 as forgotten, KRR above c2 as kept; 0 to 1, default 0.3.
    - `few_entities`: use 0.5 as `c1` for references with at most 3 entities, as the public code; default false.
    - `entities`: extract entities with spacy (default), generator (the language model of `synthesis`) or both.
    - `matcher`: all-minilm-l6-v2 (default), another embedding model, or exact.
    - `match_threshold`: least cosine of matching entities, above 0 and at most 1; default 0.8.
    - `entailment`: builtin (default), an NLI model (with `entailment_revision`), or null: entity coverage only.
    - `bootstrap`: draws per 95 % interval, at least 1; default 1000.
    - `retain_reference`: run folder, scores.json or TOFU_EVAL.json of a model that never saw the forget set.
    - `truth_ratio`: mean over the wrong answers: geometric (default) or arithmetic.
    - `min_k`: share of the least likely tokens in min-k, above 0 and at most 1; default 0.4.
    - `worst_case`: other wordings of every forget question to ask, 0 to 20; default 0.
    - `judge`: openai:MODEL or transformers:MODEL to grade answers from 1 to 5; default none.
    - `allow_remote`: allow this judge on another host; default false.
    """

    base_model: str | None = None
    c1: float = Field(default=0.3, ge=0, le=1)
    c2: float = Field(default=0.3, ge=0, le=1)
    few_entities: bool = False
    entities: str = "spacy"
    matcher: str = "all-minilm-l6-v2"
    match_threshold: float = Field(default=0.8, gt=0, le=1)
    entailment: str | None = "builtin"
    entailment_revision: str | None = None
    bootstrap: int = Field(default=1000, ge=1)
    retain_reference: str | None = None
    truth_ratio: Literal["geometric", "arithmetic"] = "geometric"
    min_k: float = Field(default=0.4, gt=0, le=1)
    worst_case: int = Field(default=0, ge=0, le=20)
    judge: str | None = None
    allow_remote: bool = False
    ability: Ability = Ability()


class Prices(Part):
    """Prices of a remote generator, for `relearn plan`: money per million tokens, at least 0; in `currency`."""

    input_per_million: float = Field(ge=0)
    output_per_million: float = Field(ge=0)
    currency: str = "USD"


class Recipe(Part):
    """A whole run; `model` and `data.forget` are required. `name` is that of its folder in runs/ (default run), `seed`
    that of all random draws (default 0).
    """

    name: str = "run"
    seed: int = 0
    model: Model
    data: Data
    learn: Learn | None = None
    synthesis: Synthesis = Synthesis()
    unlearn: Unlearn = Unlearn()
    generate: Generate = Generate()
    metrics: Metrics = Metrics()
    prices: Prices | None = None

    @field_validator("model", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def from_yaml(cls, path: Path, changes: tuple[str, ...] = ()) -> Recipe:
        """Read a recipe file; `changes` such as "unlearn.epochs=2" replace its keys. Raises InputError."""
        loaded = read_mapping(path)
        for change in changes:
            apply_change(loaded, change)
        return cls.from_mapping(loaded, where=str(path))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "recipe") -> Recipe:
        try:
            return cls.model_validate(expand(values, where))
        except ValidationError as error:
            raise readable(error, cls, where) from None

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
