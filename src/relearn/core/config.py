"""The recipe: everything a run depends on, in one frozen, strictly checked value.

YAML comes in, `Recipe.to_yaml` gives the resolved YAML back. Unknown keys are refused with the nearest known one.
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
    """LoRA as PEFT knows it. `target`: "all-linear" is every linear layer but the output layer, else layer names."""

    r: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class Model(Part):
    """The model to change. `name`: "smollm2-135m-instruct" (the demo model), a folder, or a name on the hub.

    `adapter`: a LoRA adapter the model comes with, or several that are merged one after the other. `quantization`: nf4
    holds the frozen weights in 4 bits (QLoRA). `liger`: fused kernels, where they are installed.
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
    def _word(cls, value: Any) -> Any:
        """YAML reads a bare on and off as true and false."""
        return ("on" if value else "off") if isinstance(value, bool) else value

    @property
    def adapters(self) -> tuple[str, ...]:
        return (self.adapter,) if isinstance(self.adapter, str) else self.adapter or ()


class Source(Part):
    """Where records come from. `path`: a file (.jsonl, .json, .csv, .parquet), a folder, or a data set name on the hub.

    `map` names the columns: {question: text, answer: labels}. `subjects` keeps the rows whose question has one of
    these names in it; `limit` then takes the first of them.
    """

    path: str
    map: dict[str, str] = Field(default_factory=dict)
    name: str | None = None
    split: str | None = None
    limit: int | None = Field(default=None, ge=1)
    subjects: tuple[str, ...] = ()
    chunk_words: int = Field(default=128, ge=8)


Sources = tuple[Source, ...]


def _as_sources(value: Any) -> Any:
    """One path, one mapping or a list of either: always a list of sources."""
    if value is None:
        return ()
    entries = value if isinstance(value, list | tuple) else [value]
    return tuple({"path": entry} if isinstance(entry, str) else entry for entry in entries)


class Probes(Part):
    """Questions that are asked but never trained on."""

    forget: Sources = ()
    retain: Sources = ()

    _listed = field_validator("forget", "retain", mode="before")(_as_sources)


class Utility(Part):
    """What TOFU's model utility is measured on beside the retain set: asked, never trained on."""

    real_authors: Sources = ()
    world_facts: Sources = ()

    _listed = field_validator("real_authors", "world_facts", mode="before")(_as_sources)


class Data(Part):
    forget: Sources = Field(min_length=1)
    retain: Sources = ()
    holdout: Sources = ()
    generic: Sources = ()
    probes: Probes = Probes()
    utility: Utility = Utility()

    _listed = field_validator("forget", "retain", "holdout", "generic", mode="before")(_as_sources)


class Learn(Part):
    """Make the start model first: train the model on `data` until it knows them (benchmarks, the demo).

    Rows whose question stands in `without` are left out: so learns a model that has nothing to forget.
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


class Synthesis(Part):
    """How the new answers are written. `generator`: templates, openai:MODEL or transformers:MODEL.

    `file`: rows that were written elsewhere, taken in place of new ones where they pass (see `synthesis/external.py`).
    `harden`: further rows shaped like attacks (see `synthesis/rows.py`).
    """

    file: str | None = None
    generator: str = "templates"
    variants: tuple[Literal["simple", "contextual", "noise", "logical"], ...] = (
        "simple",
        "contextual",
        "noise",
        "logical",
    )
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


class Mask(Part):
    """Which weights may move: `name` is sure or memflex; see `training/masks`."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Unlearn(Part):
    """Training settings; the defaults are the paper's (Table 4).

    `token_budget` replaces `epochs` by a number of tokens, prompts and answers of all rows, so that methods with
    different data train equally long. `precision` bfloat16 runs the passes in mixed precision.
    `trajectory`: every so many steps a few answers' probabilities are written to trajectory.jsonl; 0: never.
    """

    method: str = "relearn"
    options: dict[str, Any] = Field(default_factory=dict)
    mask: Mask | None = None
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
    """How the model is asked. Greedy unless `temperature` is above 0; then a question may be asked `repeats` times.

    `batch_size`: how many questions are answered at a time at most; left out, as many as the machine is good for.
    `backend`: who decodes; vllm needs a CUDA GPU and the package, and takes a copy of the model.
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
        """The same, with every question asked a single time."""
        return self.model_copy(update={"repeats": 1})


class Ability(Part):
    """General ability, measured before and after. `tasks`: files of multiple choice or of sums (.jsonl, .json, .csv,
    .parquet), or tasks of lm-eval by name or task file (.yaml); see docs/benchmarks.md.

    `limit`: so many questions of each task. `shots`: so many solved examples in front, at most as many as a file has;
    left out, all that a file has, and lm-eval's own number. `max_new_tokens`: how long an answer to a sum may be.
    """

    tasks: tuple[str, ...] = ()
    limit: int | None = Field(default=None, ge=1)
    shots: int | None = Field(default=None, ge=0)
    batch_size: int = Field(default=8, ge=1)
    max_new_tokens: int = Field(default=256, ge=1)


class Metrics(Part):
    """Thresholds and judges; the paper's thresholds are the default. `few_entities` is the public code's rule.

    `retain_reference`: the run folder or scores.json of a run that never saw the forget set, or a TOFU_EVAL.json.
    `truth_ratio`: the mean over the wrong answers. `min_k`: the share of least likely tokens that min-k looks at.
    `worst_case`: so many other wordings of every question to forget are asked as well.
    `judge`: openai:MODEL or transformers:MODEL grades answers from 1 to 5; `allow_remote` lets it be on another host.
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
    """Money per million tokens, for the estimate."""

    input_per_million: float = Field(ge=0)
    output_per_million: float = Field(ge=0)
    currency: str = "USD"


class Recipe(Part):
    """A whole run. See `relearn run` and docs/recipes.md."""

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
        """Read a recipe file; `changes` are "unlearn.epochs=2" strings that take precedence."""
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
