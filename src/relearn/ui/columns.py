"""Who answers on the page: the start model, and every run's unlearned one beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from relearn.ui.run_data import Opened


@dataclass(frozen=True)
class Column:
    """One model that answers. `run`: the place of its run among all; `group`: runs with one start model share it."""

    key: str
    title: str
    run: int
    group: int
    side: Literal["before", "after"]


def columns(runs: Sequence[Opened]) -> list[Column]:
    """A column for every start model, and after it one for each run that began with it and can be asked."""
    able = [number for number, run in enumerate(runs) if run.recipe is not None]
    starts = {number: runs[number].start for number in able}
    groups = list(dict.fromkeys(starts.values()))
    found = []
    for group, start in enumerate(groups):
        members = [number for number in able if starts[number] == start]
        title = "before" if len(groups) == 1 else f"before · {', '.join(runs[number].name for number in members)}"
        found.append(Column(f"before-{group}", title, members[0], group, "before"))
        for number in members:
            title = "after" if len(able) == 1 else f"after · {runs[number].name}"
            found.append(Column(f"after-{number}", title, number, group, "after"))
    return found
