"""Define the settings of an evaluation without a run, made from the options of `relearn evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from relearn.core.config import DataSource, Generate, Metrics, Model, Part, Synthesis
from relearn.core.errors import InputError
from relearn.core.run_dir import refuse_code
from relearn.core.splits import SPLITS
from relearn.core.yaml_config import apply_change, read_mapping, readable
from relearn.metrics.metric import METRICS

# In the order of asking: `before` is often also the base model, which is used next, so it is loaded only once.
ASKED_SIDES = ("after", "before")
_MODELS = ("before", "after", "base")


class Evaluation(Part):
    """Define an evaluation: models and records to ask them, or, without `before` and `after`, files of answers.

    `base`: the model for perplexity. `forget`, `retain`, ...: one file per split (`SPLITS`); one of these two is
    required. `measure`: names of metrics; empty for all. `synthesis`: settings of the generator, used if entities,
    other wordings or a judge need it.
    """

    before: Model | None = None
    after: Model | None = None
    base: Model | None = None
    forget: DataSource | None = None
    retain: DataSource | None = None
    holdout: DataSource | None = None
    real_authors: DataSource | None = None
    world_facts: DataSource | None = None
    measure: tuple[str, ...] = ()
    generate: Generate = Generate()
    metrics: Metrics = Metrics()
    synthesis: Synthesis = Synthesis()
    seed: int = Field(default=0, ge=0, lt=1 << 32)

    @property
    def models(self) -> dict[str, Model]:
        """Return the models to ask, by side."""
        return {side: model for side in ASKED_SIDES if (model := getattr(self, side)) is not None}

    @property
    def sources(self) -> dict[str, DataSource]:
        """Return the files, by split."""
        return {name: source for name in SPLITS if (source := getattr(self, name, None)) is not None}

    @property
    def asks_for_wordings(self) -> bool:
        """Return whether a generator must paraphrase the forget questions."""
        return bool(self.models and self.metrics.worst_case)

    @property
    def scored(self) -> tuple[str, ...]:
        """Return the sides of summary.json; answers from files count as "after"."""
        return tuple(reversed(self.models)) or ("after",)

    @property
    def perplexity_model(self) -> Model | None:
        """Return the model for perplexity: `base`, else `before` without its adapter, else None."""
        if self.base or self.before is None:
            return self.base
        return self.before.model_copy(update={"adapter": None})

    @property
    def asks_generator(self) -> bool:
        """Return whether scoring sends the answers to a generator."""
        return self.metrics.entities != "spacy"

    @classmethod
    def from_yaml(cls, path: Path, changes: Sequence[str] = ()) -> Evaluation:
        return from_mapping(read_mapping(path), changes, where=str(path))

    @classmethod
    def in_folder(cls, path: Path, changes: Sequence[str] = (), *, trust_remote_code: bool = False) -> Evaluation:
        """Read the settings of an evaluation folder in order to load its models.

        The folder may come from another person, so `trust_remote_code` decides whether code is run, and not the file.
        Raises InputError for settings that need code without it.
        """
        settings = cls.from_yaml(path, changes)
        refuse_code(path, settings.trusts_remote_code, settings.metrics, trust_remote_code=trust_remote_code)
        return settings.trusting(trust_remote_code)

    @property
    def trusts_remote_code(self) -> bool:
        """Return whether one of the models may run code from its repository."""
        return any(spec.trust_remote_code for role in _MODELS if (spec := getattr(self, role)) is not None)

    def trusting(self, remote_code: bool) -> Evaluation:
        """Return the same settings with `trust_remote_code` of all models set to `remote_code`."""
        specs = {role: spec for role in _MODELS if (spec := getattr(self, role)) is not None}
        update = {"trust_remote_code": remote_code}
        return self.model_copy(update={role: spec.model_copy(update=update) for role, spec in specs.items()})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def from_options(
    *,
    before: str | None = None,
    after: str | None = None,
    base: str | None = None,
    before_adapter: Sequence[str] = (),
    after_adapter: Sequence[str] = (),
    forget: str | None = None,
    retain: str | None = None,
    holdout: str | None = None,
    columns: Mapping[str, str] | None = None,
    measure: Sequence[str] = (),
    changes: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> Evaluation:
    """Make the settings from the options of `relearn evaluate`. Raises InputError for incomplete combinations.

    `before`, `after`, `base`: models; `*_adapter`: adapters to merge into them, in order. `forget`, `retain`,
    `holdout`: files. `columns`: field -> column name in these files. `measure`: names of metrics. `changes`: strings
    such as "metrics.c1=0.5". `trust_remote_code`: run code from the repositories of the models.
    """
    if before_adapter and before is None:
        raise InputError("an adapter needs its model", where="--before-adapter", way_out="give it with --before")
    if after_adapter and after is None and before is None:
        raise InputError("an adapter needs its model", where="--after-adapter", way_out="give it with --after")
    if after_adapter:
        after = after or before
    if before is not None and after is None:
        way_out = "give --after MODEL, or --after-adapter DIR"
        problem = "names the model to compare with, and there is none to score"
        raise InputError(problem, where="--before", way_out=way_out)
    values: dict[str, Any] = {"measure": tuple(measure)}
    models = {"before": (before, before_adapter), "after": (after, after_adapter), "base": (base, ())}
    for role, (name, adapters) in models.items():
        if name is not None:
            values[role] = {"name": name, "adapter": tuple(adapters) or None}
    for split, path in {"forget": forget, "retain": retain, "holdout": holdout}.items():
        if path is not None:
            values[split] = {"path": path, "map": dict(columns or {})}
    settings = from_mapping(values, changes, where="evaluate")
    return settings.trusting(True) if trust_remote_code else settings


def from_mapping(values: dict[str, Any], changes: Sequence[str], where: str) -> Evaluation:
    """Apply `changes` to `values` and validate; "model.dtype=bfloat16" changes all models. Raises InputError."""
    for change in changes:
        apply_change(values, change)
    if not values.get("forget") and not values.get("retain"):
        way_out = "give a run folder, or --forget FILE, --retain FILE or both (see relearn evaluate --help)"
        raise InputError("nothing to score", way_out=way_out)
    common = values.pop("model", {})
    if not isinstance(common, dict) or "name" in common:
        raise InputError("the models are named by --before, --after and --base", where="--set model")
    for role in _MODELS:
        if values.get(role) is not None:
            values[role] = {**values[role], **common}
    try:
        settings = Evaluation.model_validate(values)
    except ValidationError as error:
        raise readable(error, Evaluation, where) from None
    if settings.metrics.base_model is not None:
        raise InputError("is not for evaluations", where="metrics.base_model", way_out="name the model with --base")
    for name in settings.measure:
        METRICS.get(name)
    return settings


def read_columns(text: str) -> dict[str, str]:
    """Parse column names such as "question=text,answer=labels". Raises InputError for another format."""
    pairs = [pair.partition("=") for pair in filter(None, map(str.strip, text.split(",")))]
    if not all(equals and name.strip() and column.strip() for name, equals, column in pairs):
        raise InputError(f"cannot read {text!r}", where="--map", way_out="write --map question=text,answer=labels")
    return {name.strip(): column.strip() for name, _, column in pairs}


def difference(old: Evaluation, new: Evaluation) -> str | None:
    """Return why the answers of `old` cannot be reused for `new`; None if they can.

    `new` may add what `old` lacks (a retain set, a base model, a model before). Settings of scoring may always change.
    """
    was, now = old.trusting(False), new.trusting(False)
    for name in (*_MODELS, *old.sources):
        first, second = getattr(was, name), getattr(now, name)
        if first is not None and first != second:
            return f"{name} is {_described(first)}, not {_described(second)}"
    if not old.models and new.models:
        return "it scores files of answers, not models"
    if old.generate != new.generate or old.seed != new.seed:
        return "it asks with other settings (generate, seed)"
    return None


def _described(value: Model | DataSource | None) -> str:
    if value is None:
        return "none"
    key = "name" if isinstance(value, Model) else "path"
    settings = value.model_dump(exclude_defaults=True, exclude={key})
    shown = ", ".join(f"{name} {setting}" for name, setting in settings.items() if setting)
    return f"{getattr(value, key)} ({shown})" if shown else str(getattr(value, key))
