"""What one evaluation depends on, in one frozen value, made of the options of `relearn evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from relearn.core.config import Generate, Metrics, Model, Part, Source, Synthesis
from relearn.core.errors import InputError
from relearn.core.yaml_config import apply_change, read_mapping, readable
from relearn.metrics.metric import METRICS, ScoredSplit

FILE = "evaluation.yaml"
# The first is asked first: the model before is often the base as well, and then need not be loaded twice.
SIDES = ("after", "before")
# set -> the split it is scored as; set and part of summary.json have the same name
SETS: dict[str, ScoredSplit] = {
    "forget": "forget",
    "retain": "retain",
    "holdout": "holdout",
    "real_authors": "retain",
    "world_facts": "retain",
}
# The forget questions in other words: written or read on the way, never a file of their own.
WORDINGS = "wordings"
_ROLES = ("before", "after", "base")


class Evaluation(Part):
    """Models to ask and records to ask them about, or files that hold the answers already (no `before`, no `after`).

    `base`: the model perplexity is measured under. `holdout`: records like the forget set that no model has seen;
    `real_authors`, `world_facts`: the other sets of TOFU's model utility. `measure`: names of metrics, all where it is
    empty. `synthesis`: how a generator is reached, where entities or a judge need one.
    """

    before: Model | None = None
    after: Model | None = None
    base: Model | None = None
    forget: Source
    retain: Source | None = None
    holdout: Source | None = None
    real_authors: Source | None = None
    world_facts: Source | None = None
    measure: tuple[str, ...] = ()
    generate: Generate = Generate()
    metrics: Metrics = Metrics()
    synthesis: Synthesis = Synthesis()
    seed: int = 0

    @property
    def models(self) -> dict[str, Model]:
        """The models to ask, by side."""
        return {side: model for side in SIDES if (model := getattr(self, side)) is not None}

    @property
    def sets(self) -> dict[str, Source]:
        return {name: source for name in SETS if (source := getattr(self, name)) is not None}

    @property
    def asks_for_wordings(self) -> bool:
        """Whether other wordings of the forget questions are written, by a generator that is then shown these."""
        return bool(self.models and self.metrics.worst_case)

    @property
    def scored(self) -> tuple[str, ...]:
        """The sides of summary.json; answers from files are those of a model after."""
        return tuple(reversed(self.models)) or ("after",)

    @property
    def perplexity_model(self) -> Model | None:
        """`base`, else the model before without its adapter."""
        if self.base or self.before is None:
            return self.base
        return self.before.model_copy(update={"adapter": None})

    @property
    def asks_generator(self) -> bool:
        """Whether judging the answers takes a language model, which is then shown them."""
        return self.metrics.entities != "spacy"

    @classmethod
    def from_yaml(cls, path: Path, changes: Sequence[str] = ()) -> Evaluation:
        return from_mapping(read_mapping(path), changes, where=str(path))

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
) -> Evaluation:
    """The evaluation that the options of the command describe; raises InputError where they fit none."""
    if before_adapter and before is None:
        raise InputError("an adapter needs its model", where="--before-adapter", way_out="give it with --before")
    if after_adapter and after is None and before is None:
        raise InputError("an adapter needs its model", where="--after-adapter", way_out="give it with --after")
    if after_adapter:
        after = after or before
    if before is not None and after is None:
        raise InputError(
            "names the model to compare with, and there is none to score",
            where="--before",
            way_out="give --after MODEL, or --after-adapter DIR",
        )
    if forget is None:
        raise InputError(
            "nothing to score", way_out="give a run folder, or --forget FILE (see relearn evaluate --help)"
        )
    values: dict[str, Any] = {"measure": tuple(measure)}
    for role, name, adapters in (
        ("before", before, before_adapter),
        ("after", after, after_adapter),
        ("base", base, ()),
    ):
        if name is not None:
            values[role] = {"name": name, "adapter": tuple(adapters) or None}
    for name, path in (("forget", forget), ("retain", retain), ("holdout", holdout)):
        if path is not None:
            values[name] = {"path": path, "map": dict(columns or {})}
    return from_mapping(values, changes, where="evaluate")


def from_mapping(values: dict[str, Any], changes: Sequence[str], where: str) -> Evaluation:
    """`values` with `changes` ("metrics.c1=0.5") laid over them; "model.dtype=bfloat16" is for all models."""
    for change in changes:
        apply_change(values, change)
    common = values.pop("model", {})
    if not isinstance(common, dict) or "name" in common:
        raise InputError("the models are named by --before, --after and --base", where="--set model")
    for role in _ROLES:
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


def part_of(name: str) -> tuple[str, ScoredSplit]:
    """The part of summary.json in which a set stands, and the split it is scored as."""
    return ("forget_wordings", "forget") if name == WORDINGS else (name, SETS[name])


def read_columns(text: str) -> dict[str, str]:
    """ "question=text,answer=labels" as a map; raises InputError for anything else."""
    pairs = [pair.partition("=") for pair in filter(None, map(str.strip, text.split(",")))]
    if not all(equals and name.strip() and column.strip() for name, equals, column in pairs):
        raise InputError(f"cannot read {text!r}", where="--map", way_out="write --map question=text,answer=labels")
    return {name.strip(): column.strip() for name, _, column in pairs}


def differing(old: Evaluation, new: Evaluation) -> str | None:
    """Why the answers of `old` cannot serve `new`, in words; None where they can.

    What `old` left open may be given later (a retain set, a base model, a model before); how answers are judged may
    always change.
    """
    for name in (*_ROLES, *SETS):
        held, wanted = getattr(old, name), getattr(new, name)
        if held is not None and held != wanted:
            return f"{name} is {_named(held)}, not {_named(wanted)}"
    if not old.models and new.models:
        return "it scores files of answers, not models"
    if old.generate != new.generate or old.seed != new.seed:
        return "it asks with other settings (generate, seed)"
    return None


def _named(part: Model | Source | None) -> str:
    if part is None:
        return "none"
    name = part.name if isinstance(part, Model) else part.path
    settings = part.model_dump(exclude_defaults=True, exclude={"name"} if isinstance(part, Model) else {"path"})
    shown = ", ".join(f"{key} {value}" for key, value in settings.items() if value)
    return f"{name} ({shown})" if shown else str(name)
