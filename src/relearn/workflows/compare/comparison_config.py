"""Define the YAML format of a comparison of methods, and make the recipe of each of its runs.

    name: knowundo12
    base: {...}                  a recipe, or the path of one, relative to this file
    changes: {...}               keys that replace those of the base
    methods:                     in the order of the table
      relearn: {}
      grad_diff+sure: {}         method and mask
      relearn_own: {unlearn: {method: relearn}, synthesis: {file: null}}
      retain_only: {}            start model trained without the forget set; the ceiling
    grid: {learning_rate: [1.0e-4, 5.0e-4, 2.0e-3]}
    budget: {tokens: 150000, search: 0.25}

A plain recipe is accepted too, with methods from the command line. Variables `${NAME}` in recipes are not expanded, so
that recipes committed with the results run on other machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from relearn.core.config import Part, Recipe
from relearn.core.errors import InputError
from relearn.core.ownership import is_ours
from relearn.core.run_dir import recipe_in_folder
from relearn.core.yaml_config import apply_change, read_mapping, readable

RETAIN_ONLY = "retain_only"


class Entry(Part):
    """Set the keys of the base recipe that one method replaces; `learning_rate` replaces the grid."""

    unlearn: dict[str, Any] = Field(default_factory=dict)
    synthesis: dict[str, Any] = Field(default_factory=dict)
    learning_rate: tuple[float, ...] | None = None


class Grid(Part):
    """Set the learning rates to choose from; if empty, the learning rate of the recipe is used."""

    learning_rate: tuple[float, ...] = ()


class TrainingBudget(Part):
    """Set the length of a training.

    `tokens`: tokens of prompts and answers over all training rows; default: the recipe's token budget or epochs.
    `search`: share of that length for each learning rate of the grid, above 0 and at most 1; default 0.25.
    """

    tokens: int | None = Field(default=None, ge=1)
    search: float = Field(default=0.25, gt=0, le=1)


class Select(Part):
    """Set the sample of TRAINING questions for choosing a learning rate: number per split, and seed."""

    forget: int = Field(default=24, ge=1)
    retain: int = Field(default=24, ge=1)
    seed: int = Field(default=0, ge=0, lt=1 << 32)


class Comparison(Part):
    name: str = Field(pattern=r"^[\w+-][\w.+-]*$")
    base: dict[str, Any]
    changes: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, Entry] = Field(default_factory=dict)
    grid: Grid = Grid()
    budget: TrainingBudget = TrainingBudget()
    select: Select = Select()

    @field_validator("methods", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        names = dict.fromkeys(value) if isinstance(value, list | tuple) else value
        return {name: entry or {} for name, entry in names.items()} if isinstance(names, Mapping) else value

    @classmethod
    def from_yaml(cls, path: Path, changes: tuple[str, ...] = (), *, trust_remote_code: bool = False) -> Comparison:
        """Read a comparison or a plain recipe; `changes` such as "budget.tokens=5000" replace its keys.

        The runs of a comparison end with an audit only if its recipe has the key `audit`.
        `trust_remote_code`: run code from the repository of the model; a recipe from a run folder cannot switch it on.
        Raises InputError for an invalid file.
        """
        values = read_mapping(path)
        for file in files_of(path):
            if is_ours(file.parent):
                recipe_in_folder(file, trust_remote_code=trust_remote_code)
        if "base" not in values:
            values = {"name": values.get("name", Path(path).stem), "base": values}
        elif isinstance(values["base"], str):
            values["base"] = read_mapping(Path(path).parent / values["base"])
        if isinstance(values["base"], dict):
            values["base"] = {"audit": "none", **values["base"]}
        if trust_remote_code:
            changes = (*changes, "base.model.trust_remote_code=true")
        if isinstance(values.get("changes"), dict) and isinstance(values["base"], dict):
            values["base"] = merged(values["base"], values.pop("changes"))
        for change in changes:
            apply_change(values, change)
        try:
            comparison = cls.model_validate(values)
        except ValidationError as error:
            raise readable(error, cls, str(path)) from None
        Recipe.from_mapping(comparison.base, where=f"{path}: base")
        return comparison

    def choose(self, methods: tuple[str, ...], learning_rates: tuple[float, ...] | None) -> Comparison:
        """Return the comparison with only these methods (all if empty), and with this grid for all of them if given.

        Raises InputError if there is no method.
        """
        chosen = {name: self.methods.get(name, Entry()) for name in methods or self.methods}
        if not chosen:
            raise InputError("no method is named", way_out="--methods relearn,grad_diff")
        if learning_rates is None:
            return self.model_copy(update={"methods": chosen})
        chosen = {name: entry.model_copy(update={"learning_rate": None}) for name, entry in chosen.items()}
        return self.model_copy(update={"methods": chosen, "grid": Grid(learning_rate=learning_rates)})

    def learning_rates(self, method: str) -> tuple[float, ...]:
        own = self.methods[method].learning_rate
        return self.grid.learning_rate if own is None else own


def files_of(path: Path) -> tuple[Path, ...]:
    """List the files that a comparison is read from: the file itself, and the recipe that its `base` names."""
    base = read_mapping(path).get("base")
    return (path, Path(path).parent / base) if isinstance(base, str) else (path,)


def read_grid(texts: tuple[str, ...]) -> tuple[float, ...] | None:
    """Parse "lr=1e-4,5e-4" (or learning_rate=...); None without texts. Raises InputError for another format."""
    if not texts:
        return None
    key, _, values = ",".join(texts).partition("=")
    try:
        rates = tuple(float(value) for value in values.split(","))
    except ValueError:
        rates = ()
    if key not in ("lr", "learning_rate") or not rates or min(rates) <= 0:
        raise InputError(f"cannot read {','.join(texts)!r}", where="--grid", way_out="--grid lr=1e-4,5e-4,2e-3")
    return rates


def method_and_mask(name: str) -> dict[str, Any]:
    """Parse a name such as "grad_diff+sure" into the keys `method` and `mask` of `unlearn`."""
    method, plus, mask = name.partition("+")
    return {"method": method, "mask": {"name": mask}} if plus else {"method": method}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `changes` replaced; mappings are merged recursively."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


@dataclass(frozen=True)
class PlannedRun:
    """Hold one run of a comparison: the name of its folder, and its recipe without expanded variables."""

    name: str
    values: dict[str, Any]

    @property
    def recipe(self) -> Recipe:
        return Recipe.from_mapping(self.values, where=self.name)

    @property
    def portable(self) -> dict[str, Any]:
        """Return the recipe as plain values with all defaults, without expanded variables."""
        return Recipe.model_validate(self.values).model_dump(mode="json")


def plan_shared_run(comparison: Comparison, method: str | None = None) -> PlannedRun:
    """Make the run whose start model, answers and synthesis are copied; `method` can have its own synthesis."""
    entry = comparison.methods[method] if method else Entry()
    name = "shared" if not entry.synthesis else f"shared-{method}"
    return PlannedRun(name, _without_unlearning(comparison, name, {"synthesis": entry.synthesis}))


def plan_run(comparison: Comparison, method: str, learning_rate: float | None, share: float = 1.0) -> PlannedRun:
    """Make one run of a method with a learning rate (None: the recipe's) and a share of the training budget."""
    entry = comparison.methods[method]
    unlearn: dict[str, Any] = merged(method_and_mask(method), entry.unlearn)
    base = Recipe.from_mapping(comparison.base).unlearn
    tokens = comparison.budget.tokens or base.token_budget
    if tokens:
        unlearn["token_budget"] = max(1, round(tokens * share))
    else:
        whole = PlannedRun(method, merged(comparison.base, {"unlearn": unlearn}))
        unlearn["epochs"] = whole.recipe.unlearn.epochs * share
    if learning_rate is not None:
        unlearn["learning_rate"] = learning_rate
    size = f"{unlearn['token_budget']}t" if tokens else f"{unlearn['epochs']:g}e"
    rate = f"_lr{learning_rate:g}" if learning_rate is not None else ""
    changes = {"name": f"{comparison.name}-{method}", "unlearn": unlearn, "synthesis": entry.synthesis}
    return PlannedRun(f"{method}{rate}_{size}", merged(comparison.base, changes))


def plan_retain_only(comparison: Comparison) -> PlannedRun:
    """Make the run that trains a start model without the forget set and its probes.

    Raises InputError if the recipe has no `learn`.
    """
    learn = comparison.base.get("learn")
    if not learn:
        problem = "retain_only trains a start model, and this recipe has no settings for that"
        raise InputError(problem, where="learn", way_out="leave retain_only out")
    data = comparison.base["data"]
    probes = (data.get("probes") or {}).get("forget") or []
    without = [*_listed(data["forget"]), *_listed(probes)]
    return PlannedRun(RETAIN_ONLY, _without_unlearning(comparison, RETAIN_ONLY, {"learn": {"without": without}}))


def without_learning(run_plan: PlannedRun) -> PlannedRun:
    """Return the run without its stage `learn`."""
    return PlannedRun(run_plan.name, {**run_plan.values, "learn": None})


def _without_unlearning(comparison: Comparison, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the base recipe with default unlearning settings, so that it is the same for every method."""
    values = merged(comparison.base, {"name": f"{comparison.name}-{name}", **changes})
    limits = {key: value for key, value in values.get("unlearn", {}).items() if key == "max_length"}
    return {**values, "unlearn": {"method": "relearn", **limits}}


def _listed(sources: Any) -> list[Any]:
    return list(sources) if isinstance(sources, list | tuple) else [sources]
