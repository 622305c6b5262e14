"""Commands that work through a recipe: demo, plan, run, unlearn, compare."""

from __future__ import annotations

from pathlib import Path

from relearn.cli.app import Set, app, fail, show


@app.command
def demo(*, out: Path = Path("runs/demo")) -> None:
    """Make a small real model learn private facts, forget them, and show it. Offline, on a CPU, in minutes.

    A demo that was interrupted goes on from where it stopped.

    Parameters
    ----------
    out
        The run folder.
    """
    from relearn.demo.run import run_demo

    run_demo(out)


@app.command
def plan(recipe: Path, *, set_: Set = ()) -> None:
    """Print rows, generator calls, tokens, cost, memory, and what would be sent where. Spends nothing."""
    from relearn.config import Recipe
    from relearn.console import out as screen
    from relearn.estimate import plan_lines

    for line in plan_lines(Recipe.from_yaml(recipe, set_)):
        screen.print(line, markup=False, soft_wrap=True)


@app.command
def run(recipe: Path, *, set_: Set = (), out: Path | None = None, resume: bool = False, dry_run: bool = False) -> None:
    """Do what a recipe says, from the records to the report.

    Parameters
    ----------
    recipe
        A YAML file; see recipes/.
    out
        The run folder; runs/NAME when not given.
    resume
        Go on with a run that was stopped.
    dry_run
        Print what it would take, and do nothing.
    """
    if dry_run:
        return plan(recipe, set_=set_)
    _run_until(recipe, set_, out, resume, "report")
    return None


@app.command
def unlearn(recipe: Path, *, set_: Set = (), out: Path | None = None, resume: bool = False) -> None:
    """Like `run`, up to the adapter."""
    _run_until(recipe, set_, out, resume, "unlearn")


def _run_until(recipe: Path, changes: tuple[str, ...], out: Path | None, resume: bool, until: str) -> None:
    from relearn import parallel
    from relearn.config import Recipe
    from relearn.rundir import below

    settled = parallel.on_main(lambda: Recipe.from_yaml(recipe, changes))
    _finish(settled, out or below(Path("runs"), settled.name), resume=resume, until=until)


def _finish(recipe, out: Path, *, resume: bool, until: str) -> None:
    from relearn import parallel
    from relearn.console import note
    from relearn.pipeline.run import run as run_recipe

    folder = run_recipe(recipe, out, resume=resume, until=until)
    parallel.leave()
    if not parallel.is_main():
        return
    if until == "report":
        show(folder.path)
    else:
        note(f"done up to {until}: {folder.path}")


@app.command
def compare(
    recipe: Path, *, methods: str = "", grid: tuple[str, ...] = (), set_: Set = (), out: Path | None = None,
    results: Path = Path("results"),
) -> int:  # fmt: skip
    """Train, ask and score methods on the same records with the same budget, and tabulate them.

    The same command goes on with a comparison that was stopped, and does nothing where all is done.

    Parameters
    ----------
    recipe
        A comparison (see experiments/), or a plain recipe.
    methods
        Names with commas between: relearn,grad_diff,npo_gdr+sure,retain_only; those of the file when not given.
    grid
        Learning rates each method chooses from, at a share of the budget: lr=1e-4,5e-4,2e-3
    out
        The folder for all runs; runs/compare/NAME when not given.
    results
        NAME/ in it gets a JSON file per method, the table, the KFR-KRR plane and answers to read.
    """
    from relearn.compare.run import compare as compare_methods
    from relearn.compare.settings import Comparison, read_grid
    from relearn.console import note
    from relearn.rundir import below

    chosen = tuple(filter(None, (name.strip() for name in methods.split(","))))
    settled = Comparison.from_yaml(recipe, set_).choose(chosen, read_grid(grid))
    try:
        compare_methods(settled, out or below(Path("runs/compare"), settled.name), results, read=(recipe,))
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from here", 130)
    note(f"results: {results / settled.name}")
    return 0
