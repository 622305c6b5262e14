"""Define the recipe: every setting of a run, read from a YAML file and validated.

An unknown key raises an InputError that suggests the nearest known key. The class docstrings give the meaning, unit,
range and default of every key. The page "Recipe keys" of the documentation is generated from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date as Date
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from relearn.core.files import check_path
from relearn.core.yaml_config import apply_change, expand, read_mapping, readable

# A text that names a file, a folder, or a model or data set on the hub.
PathText = Annotated[str, AfterValidator(check_path)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Lora(Part):
    """Set the LoRA options, as in PEFT.

    - `r`: rank, at least 1; default 8.
    - `alpha`: scaling numerator, above 0; default 16.
    - `dropout`: probability, from 0 to below 1; default 0.1.
    - `target`: "all-linear" (default; every linear layer except the output layer), or a list of layer names.
    """

    r: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class Model(Part):
    """Choose the model to unlearn from and how it is loaded. A text instead of a mapping is the `name`.

    - `name`: smollm2-135m-instruct (the demo model), a folder, or a name on the hub (`revision`: its commit); required.
    - `adapter`: folder of a LoRA adapter that is merged into the weights first, or a list of folders, merged in order;
      default none.
    - `dtype`: auto (default; chosen by device), float32, bfloat16 or float16.
    - `device`: auto (default; the GPU if there is one), cpu, cuda, cuda:N.
    - `attention`: auto (default), sdpa, eager or flash_attention_2.
    - `quantization`: none (default) or nf4 (frozen weights in 4 bits, QLoRA).
    - `liger`: fused Liger kernels: auto (default; on where they are installed and there is a GPU), on, off.
    - `chat_template`: auto (default; that of the tokenizer) or none (a plain question-answer form).
    - `system_prompt`: text; default: the system prompt of the chat template; "" is an empty system prompt.
    - `thinking`: thoughts of a reasoning model before an answer: auto (default; as its chat template has it), on, off.
    - `date`: date for a chat template that contains today's date, YYYY-MM-DD; default: the day when the run began.
    - `trust_remote_code`: run code from the repository of the model; default false. The recipe in a run folder never
      switches it on: see the option --trust-remote-code.
    """

    name: PathText
    revision: str | None = None
    adapter: str | tuple[str, ...] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    quantization: Literal["none", "nf4"] = "none"
    liger: Literal["auto", "on", "off"] = "auto"
    chat_template: Literal["auto", "none"] = "auto"
    system_prompt: str | None = None
    thinking: Literal["auto", "on", "off"] = "auto"
    date: Date | None = None
    trust_remote_code: bool = False

    @field_validator("liger", "thinking", mode="before")
    @classmethod
    def _word_for_boolean(cls, value: Any) -> Any:
        """Convert true and false to "on" and "off", because YAML reads an unquoted on or off as a boolean."""
        return ("on" if value else "off") if isinstance(value, bool) else value

    @field_validator("adapter")
    @classmethod
    def _adapter_paths(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for path in (value,) if isinstance(value, str) else value or ():
            check_path(path)
        return value

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings, for hashes; those of later versions only if they are set, so that old hashes hold."""
        later = {name for name in ("thinking", "date") if getattr(self, name) == Model.model_fields[name].default}
        return self.model_dump(mode="json", exclude=later)

    @property
    def adapters(self) -> tuple[str, ...]:
        return (self.adapter,) if isinstance(self.adapter, str) else self.adapter or ()


class DataSource(Part):
    """Choose a source of records. A text instead of a mapping is the `path`.

    - `path`: a file (.jsonl, .json, .csv, .tsv, .parquet), a folder, or a data set on the hub; required.
    - `map`: column of each record field, such as {question: text, answer: labels}, {text: body} for documents, or
      {messages: chat} for conversations; default: known column names.
    - `name`, `split`: configuration and split of a data set on the hub; default: the only one.
    - `subjects`: keep only rows whose question contains one of these names; default: all rows.
    - `limit`: number of rows to keep from the beginning, applied after `subjects`, at least 1; default: all rows.
    - `chunk_words`: words per record where a document is split into records, at least 8; default 128.
    """

    path: PathText
    map: dict[str, str] = Field(default_factory=dict)
    name: str | None = None
    split: str | None = None
    limit: int | None = Field(default=None, ge=1)
    subjects: tuple[str, ...] = ()
    chunk_words: int = Field(default=128, ge=8)


Sources = tuple[DataSource, ...]


def _as_sources(value: Any) -> Any:
    """Convert one path, one mapping or a list of either to a tuple of sources."""
    if value is None:
        return ()
    entries = value if isinstance(value, list | tuple) else [value]
    return tuple({"path": entry} if isinstance(entry, str) else entry for entry in entries)


class Probes(Part):
    """Choose held-out questions about the facts to `forget` and to `retain`: never trained on; default none."""

    forget: Sources = ()
    retain: Sources = ()

    _listed = field_validator("forget", "retain", mode="before")(_as_sources)


class Utility(Part):
    """Choose the sets `real_authors` and `world_facts` of TOFU's model utility: never trained on; default none."""

    real_authors: Sources = ()
    world_facts: Sources = ()

    _listed = field_validator("real_authors", "world_facts", mode="before")(_as_sources)


class Data(Part):
    """Choose the records of a run. Each key takes a path, a data source, or a list of either.

    - `forget`: records to forget; required.
    - `retain`: records to keep; default: answers of the start model to questions related to each subject.
    - `holdout`: records similar to the forget set that no model was trained on, for membership inference; default none.
    - `generic`: general questions and answers mixed into the training; default: the built-in ones.
    """

    forget: Sources = Field(min_length=1)
    retain: Sources = ()
    holdout: Sources = ()
    generic: Sources = ()
    probes: Probes = Probes()
    utility: Utility = Utility()

    _listed = field_validator("forget", "retain", "holdout", "generic", mode="before")(_as_sources)


class Learn(Part):
    """Fine-tune `model` on `data` before unlearning; the result is the start model (benchmarks, the demo).

    Without this key the start model is `model`, and the stage is skipped.

    - `data`: records to learn; required.
    - `without`: records whose questions are removed from `data`, to train a model that never saw them; default none.
    - `epochs`: passes over the rows, above 0; default 8.
    - `learning_rate`: peak learning rate, above 0; default 1e-3.
    - `batch_size`, `accumulation`: rows per forward pass, passes per optimiser step, at least 1; default 8 and 1.
    - `precision`: model (default; the dtype of the model) or bfloat16 (mixed precision).
    - `lora`: default r 16, alpha 32, dropout 0; keys that are left out have these values.
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

    @field_validator("lora", mode="before")
    @classmethod
    def _own_defaults(cls, value: Any) -> Any:
        """Complete a part of the section with the defaults of `learn`, not with those of unlearning."""
        return {"r": 16, "alpha": 32, "dropout": 0.0, **value} if isinstance(value, Mapping) else value


Hardening = Literal["cuts", "openings", "stems", "frames"]
VariantKind = Literal["simple", "contextual", "noise", "logical"]
AnswerStyle = Literal["vague", "private", "unknown"]


class Synthesis(Part):
    """Set how the training rows with new answers are generated.

    - `file`: file of finished training rows, which are checked for leaks and used instead; default none.
    - `generator`: templates (default; offline), self (the start model), openai:MODEL or transformers:MODEL.
    - `style`: what new answers say: vague (default; on the matter, nothing particular), private (this is private) or
      unknown (I do not know).
    - `variants`: kinds of question variants: simple, contextual, noise, logical; default all.
    - `attempts`: attempts per text, including the first, at least 1; default 3.
    - `judge`: openai:MODEL or transformers:MODEL to check for leaks after the deterministic check; default none.
    - `completions`: also write rows in which the model completes the beginning of an answer; default true.
    - `completion_split`: share of the answer that is in the prompt of these rows, above 0 and below 1; default 0.25.
    - `generic_ratio`: number of generic rows per generated row, at least 0; default 1.
    - `harden`: kinds of rows that imitate attacks: cuts, openings, stems, frames; default none.
    - `temperature`: sampling temperature of the generator, at least 0; default 0.7.
    - `max_calls`: maximum number of generator calls, at least 1; default no limit.
    - `max_tokens`: maximum total of prompt and answer tokens of all calls, at least 1; default no limit.
    - `concurrency`: simultaneous calls, or prompts per batch of a local model, at least 1; default 8.
    - `allow_remote`: allow a generator or judge on another host; default false.
    """

    file: PathText | None = None
    generator: str = "templates"
    style: AnswerStyle = "vague"
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
    """Restrict training to some weights: `name` is sure or memflex, `options` are the options of the mask.

    A text instead of a mapping is the `name`.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Unlearn(Part):
    """Set the training of the unlearned model.

    The defaults are those of the paper (arXiv 2502.11190, Table 4), except `warmup` (paper: one epoch, 0.33 of three),
    and `batch_size` and `accumulation` (paper: 1 and 4, the same number of rows per step).

    - `method`, `options`: a method (`relearn list methods`; default relearn) and its options.
    - `mask`: restrict training to some weights; default none.
    - `epochs`: passes over the rows, above 0; default 3.
    - `token_budget`: number of tokens to train on, prompts and answers of all rows, instead of `epochs`; at least 1.
    - `precision`: model (default; the dtype of the model) or bfloat16 (mixed precision).
    - `learning_rate`: peak learning rate, above 0; default 1e-5.
    - `weight_decay`: weight decay of AdamW, at least 0; default 0.01.
    - `batch_size`, `accumulation`: forget rows per forward pass, passes per optimiser step; default 4 and 1.
    - `warmup`: share of the steps in which the learning rate rises from 0, from 0 to below 1; default 0.1.
    - `schedule`: change of the learning rate after the warm-up: linear (default), cosine or constant.
    - `max_grad_norm`: norm to which gradients are clipped, above 0; default 1.
    - `max_length`: maximum number of tokens of a row, at least 16; a longer row raises an error; default 512.
    - `full`: train all weights instead of an adapter (`lora`); default false.
    - `gradient_checkpointing`: use less memory, for about a third more time; default false.
    - `evaluate_every`: steps between evaluations during training, at least 1; default: no evaluation.
    - `keep_best`: keep the weights with the best evaluation instead of the last; default false.
    - `trajectory`: steps between rows of trajectory.jsonl (token probabilities of a few answers); default 0, never.
    - `checkpoint_every`: steps between checkpoints, at least 1; default 50.
    - `runaway_loss`: loss above which training stops with an error, above 0; default 50 or ten times the first loss.
    - `report_to`: experiment trackers of transformers.Trainer; default none.
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
    """Set how answers are generated.

    The defaults are greedy; the paper samples: temperature 0.7, top_p 0.9, top_k 5, repeats 3.

    - `max_new_tokens`: maximum number of tokens of an answer, at least 1; default 128.
    - `batch_size`: maximum number of questions per batch, at least 1; default: chosen by the memory of the machine.
    - `backend`: transformers (default), or vllm (needs a CUDA GPU, the package vllm and a copy of the model).
    - `temperature`: sampling temperature, at least 0; default 0, greedy.
    - `top_p`: probability mass of the tokens to sample from, above 0 and at most 1; default 1.
    - `top_k`: number of most likely tokens to sample from; default 0, all tokens.
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
    """Choose benchmarks of general ability, measured before and after unlearning; see docs/benchmarks.md.

    - `tasks`: files of multiple-choice or arithmetic questions (.jsonl, .json, .csv, .tsv, .parquet), or lm-eval tasks,
      given by name or task file (.yaml); default none.
    - `limit`: number of questions per task, at least 1; default all.
    - `shots`: maximum number of solved examples before a question (few-shot), at least 0; default: all in the file, or
      the number set by lm-eval.
    - `batch_size`, `max_new_tokens`: questions per batch, maximum tokens of an answer, at least 1; default 8 and 256.
    """

    tasks: tuple[PathText, ...] = ()
    limit: int | None = Field(default=None, ge=1)
    shots: int | None = Field(default=None, ge=0)
    batch_size: int = Field(default=8, ge=1)
    max_new_tokens: int = Field(default=256, ge=1)


class Metrics(Part):
    """Set the thresholds and judges of the metrics. The default thresholds are those of the paper.

    - `base_model`: the model before any fine-tuning, for perplexity and LS; default: `model` without adapters.
    - `c1`: KFR counts an answer with an entity coverage below `c1` as forgotten; 0 to 1, default 0.3.
    - `c2`: KRR counts an answer with an entity coverage above `c2` as kept; 0 to 1, default 0.3.
    - `few_entities`: use 0.5 as `c1` for references with at most 3 entities, as the public code does; default false.
    - `entities`: extract entities with spacy (default), generator (the language model of `synthesis`) or both.
    - `matcher`: all-minilm-l6-v2 (default), another embedding model, or exact.
    - `match_threshold`: minimum cosine similarity of matching entities, above 0 and at most 1; default 0.8.
    - `entailment`: builtin (default), an NLI model (with `entailment_revision`), or null: entity coverage only.
    - `bootstrap`: bootstrap samples per 95 % interval of a mean, at least 1; default 1000. Shares need none.
    - `retain_reference`: run folder, scores.json or TOFU_EVAL.json of a model that never saw the forget set.
    - `truth_ratio`: kind of mean over the wrong answers: geometric (default) or arithmetic.
    - `min_k`: share of the least likely tokens that min-k averages over, above 0 and at most 1; default 0.4.
    - `worst_case`: number of rewordings of every forget question that are also asked, 0 to 20; default 0.
    - `judge`: openai:MODEL or transformers:MODEL to grade answers from 1 to 5; default none.
    - `allow_remote`: allow this judge on another host; default false.
    """

    base_model: PathText | None = None
    c1: float = Field(default=0.3, ge=0, le=1)
    c2: float = Field(default=0.3, ge=0, le=1)
    few_entities: bool = False
    entities: str = "spacy"
    matcher: PathText = "all-minilm-l6-v2"
    match_threshold: float = Field(default=0.8, gt=0, le=1)
    entailment: PathText | None = "builtin"
    entailment_revision: str | None = None
    bootstrap: int = Field(default=1000, ge=1)
    retain_reference: PathText | None = None
    truth_ratio: Literal["geometric", "arithmetic"] = "geometric"
    min_k: float = Field(default=0.4, gt=0, le=1)
    worst_case: int = Field(default=0, ge=0, le=20)
    judge: str | None = None
    allow_remote: bool = False
    ability: Ability = Ability()


class Prices(Part):
    """Set the prices of a remote generator, for `relearn plan`: per million tokens, at least 0, in `currency`."""

    input_per_million: float = Field(ge=0)
    output_per_million: float = Field(ge=0)
    currency: str = "USD"


AuditStrength = Literal["none", "quick", "standard", "full"]


class Recipe(Part):
    """Set every option of a run; `model` and `data.forget` are required.

    - `name`: name of the run folder in runs/; default run.
    - `seed`: seed of all random draws, from 0 to 4294967295; default 0.
    - `audit`: strength of the audit at the end of the run: quick (default), standard, full or none.
    """

    name: str = "run"
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    model: Model
    data: Data
    learn: Learn | None = None
    synthesis: Synthesis = Synthesis()
    unlearn: Unlearn = Unlearn()
    generate: Generate = Generate()
    metrics: Metrics = Metrics()
    prices: Prices | None = None
    audit: AuditStrength = "quick"

    @field_validator("model", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def from_yaml(cls, path: Path, changes: tuple[str, ...] = ()) -> Recipe:
        """Read and validate a recipe file; `changes` such as "unlearn.epochs=2" replace its keys.

        Raises InputError for a file that cannot be read, and for unknown keys and invalid values.
        """
        loaded = read_mapping(path)
        for change in changes:
            apply_change(loaded, change)
        return cls.from_mapping(loaded, where=str(path))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "recipe", *, variables: bool = True) -> Recipe:
        """Validate a recipe; `variables` replaces `${NAME}` with environment variables. Raises InputError."""
        try:
            return cls.model_validate(expand(values, where) if variables else values)
        except ValidationError as error:
            raise readable(error, cls, where) from None

    def trusting(self, remote_code: bool) -> Recipe:
        """Return the same recipe with `model.trust_remote_code` set to `remote_code`."""
        return self.model_copy(update={"model": self.model.model_copy(update={"trust_remote_code": remote_code})})

    def makes_same_answers(self, other: Recipe) -> bool:
        """Return whether two recipes are equal except in keys that no answer depends on."""
        own, others = (one.trusting(False).model_copy(update={"audit": "none"}) for one in (self, other))
        return own == others

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
