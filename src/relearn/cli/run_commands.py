"""Commands that work through a recipe: demo, plan, run, unlearn, compare.

Commands that make and check training rows: synthesize, verify.
"""

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
    from relearn.workflows.demo.demo import run_demo

    run_demo(out)


@app.command
def plan(recipe: Path, *, set_: Set = ()) -> None:
    """Print rows, generator calls, tokens, cost, memory, and what would be sent where. Spends nothing."""
    from relearn.core.config import Recipe
    from relearn.core.console import out as screen
    from relearn.workflows.run.estimate import plan_lines

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
    from relearn.core import distributed
    from relearn.core.config import Recipe
    from relearn.core.ownership import below

    settled = distributed.on_main(lambda: Recipe.from_yaml(recipe, changes))
    _finish(settled, out or below(Path("runs"), settled.name), resume=resume, until=until)


def _finish(recipe, out: Path, *, resume: bool, until: str) -> None:
    from relearn.core import distributed
    from relearn.core.console import note
    from relearn.workflows.run.pipeline import run as run_recipe

    folder = run_recipe(recipe, out, resume=resume, until=until)
    distributed.leave()
    if not distributed.is_main():
        return
    if until == "report":
        show(folder.path)
    else:
        note(f"done up to {until}: {folder.path}")


@app.command
def compare(
    recipe: Path,
    *,
    methods: str = "",
    grid: tuple[str, ...] = (),
    set_: Set = (),
    out: Path | None = None,
    results: Path = Path("results"),
) -> int:
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
    from relearn.core.console import note
    from relearn.core.ownership import below
    from relearn.workflows.compare.comparison import compare as compare_methods
    from relearn.workflows.compare.comparison_config import Comparison, read_grid

    chosen = tuple(filter(None, (name.strip() for name in methods.split(","))))
    settled = Comparison.from_yaml(recipe, set_).choose(chosen, read_grid(grid))
    try:
        compare_methods(settled, out or below(Path("runs/compare"), settled.name), results, read=(recipe,))
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from here", 130)
    note(f"results: {results / settled.name}")
    return 0


@app.command
def synthesize(
    *,
    forget: Path,
    out: Path,
    generator: str = "templates",
    generic: Path | None = None,
    seed: int = 0,
    allow_remote: bool = False,
    max_calls: int | None = None,
) -> None:
    """Write the new answers for a forget set, without touching a model.

    Parameters
    ----------
    forget
        The records to forget.
    out
        A folder for synthesis.jsonl, rejected.jsonl and the answer cache; asked again, nothing is paid twice.
    generator
        templates, openai:MODEL or transformers:MODEL.
    generic
        Generic rows to mix in; the built-in ones when not given.
    allow_remote
        Let questions about the forget set go to another host.
    max_calls
        Stop before more calls than this.
    """
    from relearn.core.config import Synthesis
    from relearn.workflows.synthesize import synthesize as write_answers

    settings = Synthesis(generator=generator, allow_remote=allow_remote, max_calls=max_calls)
    counts = write_answers(forget, out, settings, generic=generic, seed=seed)
    _print_counts(counts)


def _print_counts(counts) -> None:
    from relearn.core.console import note

    for name, value in counts.items():
        note(f"{name}: {value}")


@app.command
def verify(file: Path, *, against: Path, out: Path, strict: bool = False) -> int:
    """Look for the secrets of a forget set in any file of training rows.

    Parameters
    ----------
    file
        Rows to check: JSONL, JSON, CSV or Parquet.
    against
        The forget set.
    out
        One JSON line per flagged row.
    strict
        Exit with 1 when anything is flagged.
    """
    from relearn.core.console import note
    from relearn.synthesis.checks import verify_file

    found = verify_file(file, against, out)
    note(f"{found.flagged} of {found.rows} rows flagged: {out}")
    for kind, count in sorted(found.by_kind.items(), key=lambda entry: -entry[1]):
        note(f"  {kind:<10}{count}")
    return 1 if strict and found.flagged else 0
