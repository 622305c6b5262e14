"""The comparison itself: every method searched, trained in full, asked, scored, and set beside the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from relearn.compare.recipes import Planned, evaluated, planned, retain_only, shared
from relearn.compare.select import Selector
from relearn.core import console
from relearn.core.errors import RunFailedError
from relearn.core.run_dir import RunDir, make_private_dir
from relearn.unlearning.method import METHODS
from relearn.workflows.compare.comparison_config import RETAIN_ONLY, Comparison
from relearn.workflows.compare.method_runs import evaluate, finish, finish_shared, needs_synthesis, take_over
from relearn.workflows.compare.results import read_results, result, write_overview, write_result


def compare(comparison: Comparison, out: Path, results: Path) -> list[dict[str, Any]]:
    """Do all that is left of a comparison in folder `out` and write `results`/NAME; returns the results, in order.

    A method that fails does not keep the others from being run; the first failure is raised when they are done.
    """
    work = Work(comparison, make_private_dir(out))
    work.check()
    target = results / comparison.name
    runs: dict[str, RunDir] = {}
    failures: dict[str, Exception] = {}
    for method in comparison.methods:
        console.note(f"== {method}")
        try:
            runs[method] = work.do(method, target)
        except Exception as error:  # A night of other methods is not to be lost to one of them.
            console.note(f"{method} failed: {error}")
            failures[method] = error
        write_overview(target, tuple(comparison.methods), runs)
    if failures:
        raise next(iter(failures.values()))
    return read_results(target, tuple(comparison.methods))


class Work:
    """One comparison in its folder."""

    def __init__(self, comparison: Comparison, out: Path):
        self._comparison = comparison
        self._out = out

    def check(self) -> None:
        """Everything that can be wrong with the recipes of all methods, before the first is run."""
        for method in self._comparison.methods:
            if method == RETAIN_ONLY:
                _ = retain_only(self._comparison).recipe
            else:
                for rate in self._comparison.learning_rates(method) or (None,):
                    settings = planned(self._comparison, method, rate).recipe.unlearn
                    METHODS.get(settings.method).objective(settings.options)

    def do(self, method: str, results: Path) -> RunDir:
        """Search, train, ask and score one method and write its result; returns the folder of the full run."""
        if method == RETAIN_ONLY:
            return self._retain_only(results)
        donor = self._shared(method)
        chosen = self._search(method, donor)
        full = planned(self._comparison, method, chosen["learning_rate"])
        folder = self._out / "runs" / full.name
        take_over(full, folder, donor)
        done = finish(full, folder)
        chosen["learning_rate"] = full.recipe.unlearn.learning_rate
        write_result(results, result(self._comparison.name, method, full.portable, done, chosen=chosen))
        return done

    def _shared(self, method: str | None = None) -> RunDir:
        """The run whose stages are taken over; a method with rows of its own has one for these."""
        entry = self._comparison.methods[method] if method else None
        written = method is not None and needs_synthesis(planned(self._comparison, method, None).recipe)
        if method is None or not written or not (entry and entry.synthesis):
            plan = shared(self._comparison)
            return finish_shared(plan, self._out / plan.name, written=written)
        plan = shared(self._comparison, method)
        take_over(plan, self._out / plan.name, self._shared(), only=("learn", "neighbours", "before"))
        return finish_shared(plan, self._out / plan.name, written=True)

    def _search(self, method: str, donor: RunDir) -> dict[str, Any]:
        """The learning rate with the best short training; ties go to the smaller one."""
        rates = self._comparison.learning_rates(method)
        if len(rates) < 2:
            return {"learning_rate": rates[0] if rates else None, "grid": []}
        selector = Selector(donor, shared(self._comparison).recipe, self._comparison.select)
        grid = [self._try(method, rate, donor, selector) for rate in rates]
        known = [entry for entry in grid if not entry.get("failed")]
        if not known:
            raise RunFailedError(f"{method}: every learning rate failed: {grid[0]['failed']}", way_out="lower ones")
        best = max(known, key=lambda entry: (entry["score"], -entry["learning_rate"]))
        return {"learning_rate": best["learning_rate"], "grid": grid}

    def _try(self, method: str, rate: float, donor: RunDir, selector: Selector) -> dict[str, Any]:
        short: Planned = planned(self._comparison, method, rate, self._comparison.budget.search)
        folder = self._out / "search" / short.name
        take_over(short, folder, donor)
        try:
            done = finish(short, folder, until="unlearn")
        except RunFailedError as error:
            console.note(f"{short.name} failed: {error}")
            return {"learning_rate": rate, "failed": str(error)}
        return {"learning_rate": rate, **asdict(selector.judge(short.recipe, done))}

    def _retain_only(self, results: Path) -> RunDir:
        donor = self._shared()
        plan = retain_only(self._comparison)
        learned = finish(plan, self._out / "runs" / f"{plan.name}_learn", until="learn")
        asked = evaluated(plan)
        folder = self._out / "runs" / plan.name
        take_over(asked, folder, donor, learned=learned)
        done = evaluate(asked, folder)
        chosen: Mapping[str, Any] = {"learning_rate": plan.recipe.learn and plan.recipe.learn.learning_rate, "grid": []}
        value = result(
            self._comparison.name, plan.name, plan.portable, done, chosen=chosen, trained=learned, stage="learn"
        )
        write_result(results, value)
        return done
