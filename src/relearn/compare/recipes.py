"""The recipe of every run of a comparison: the base, what a method changes, its learning rate and its budget.

Each is kept as its author wrote it, `${NAME}` unexpanded, so that what is committed with the results runs elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relearn.core.config import Recipe
from relearn.core.errors import InputError
from relearn.workflows.compare.comparison_config import RETAIN_ONLY, Comparison, Entry, merged, method_and_mask


@dataclass(frozen=True)
class Planned:
    """One run: its folder's name and its recipe as written."""

    name: str
    values: dict[str, Any]

    @property
    def recipe(self) -> Recipe:
        return Recipe.from_mapping(self.values, where=self.name)

    @property
    def portable(self) -> dict[str, Any]:
        """The resolved recipe as plain values, variables unexpanded."""
        return Recipe.model_validate(self.values).model_dump(mode="json")


def shared(comparison: Comparison, method: str | None = None) -> Planned:
    """The run whose start model, answers before and synthesis the others take over; `method` may have other rows."""
    entry = comparison.methods[method] if method else Entry()
    name = "shared" if not entry.synthesis else f"shared-{method}"
    return Planned(name, _not_unlearning(comparison, name, {"synthesis": entry.synthesis}))


def planned(comparison: Comparison, method: str, learning_rate: float | None, share: float = 1.0) -> Planned:
    """One training of a method at a learning rate (the recipe's own when None) with a share of the budget."""
    entry = comparison.methods[method]
    unlearn: dict[str, Any] = merged(method_and_mask(method), entry.unlearn)
    settled = Recipe.from_mapping(comparison.base).unlearn
    tokens = comparison.budget.tokens or settled.token_budget
    if tokens:
        unlearn["token_budget"] = max(1, round(tokens * share))
    else:
        unlearn["epochs"] = merged(comparison.base.get("unlearn", {}), unlearn).get("epochs", settled.epochs) * share
    if learning_rate is not None:
        unlearn["learning_rate"] = learning_rate
    size = f"{unlearn['token_budget']}t" if tokens else f"{unlearn['epochs']:g}e"
    rate = f"_lr{learning_rate:g}" if learning_rate is not None else ""
    changes = {"name": f"{comparison.name}-{method}", "unlearn": unlearn, "synthesis": entry.synthesis}
    return Planned(f"{method}{rate}_{size}", merged(comparison.base, changes))


def retain_only(comparison: Comparison) -> Planned:
    """The start model learned anew without the rows to forget, and without the questions that probe for them."""
    learn = comparison.base.get("learn")
    if not learn:
        raise InputError(
            "retain_only learns the start model anew, and this recipe says not how", where="learn",
            way_out="leave retain_only out",
        )  # fmt: skip
    data = comparison.base["data"]
    probes = (data.get("probes") or {}).get("forget") or []
    without = [*_listed(data["forget"]), *_listed(probes)]
    return Planned(RETAIN_ONLY, _not_unlearning(comparison, RETAIN_ONLY, {"learn": {"without": without}}))


def evaluated(planned: Planned) -> Planned:
    """The same without the learning, which was done elsewhere."""
    return Planned(planned.name, {**planned.values, "learn": None})


def _not_unlearning(comparison: Comparison, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The base as it is up to unlearning, so that no setting of a method makes it another recipe."""
    values = merged(comparison.base, {"name": f"{comparison.name}-{name}", **changes})
    limits = {key: value for key, value in values.get("unlearn", {}).items() if key == "max_length"}
    return {**values, "unlearn": {"method": "relearn", **limits}}


def _listed(sources: Any) -> list[Any]:
    return list(sources) if isinstance(sources, list | tuple) else [sources]
