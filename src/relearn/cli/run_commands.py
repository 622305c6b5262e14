"""Define the commands that run a recipe (demo, plan, run, unlearn, compare) or training rows (synthesize, verify)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from relearn.cli.app import Count, Set, Trust, app, fail, show


@app.command
def demo(*, out: Path = Path("runs/demo")) -> None:
    """Run the demo: fine-tune a small model on private facts, unlearn them and write a report.

    It works offline, on a CPU, in minutes. The same command continues an interrupted demo.

    Parameters
    ----------
    out
        The run folder.
    """
    from relearn.workflows.demo.demo import run_demo

    run_demo(out)


@app.command
def plan(recipe: Path, *, set_: Set = (), trust_remote_code: Trust = False) -> None:
    """Estimate rows, generator calls, tokens, cost and memory of a recipe; list the data it would send to hosts."""
    from relearn.core.console import out as screen
    from relearn.core.ownership import read_recipe
    from relearn.workflows.run.estimate import plan_lines

    for line in plan_lines(read_recipe(recipe, set_, trust_remote_code=trust_remote_code)):
        screen.print(line, markup=False, soft_wrap=True)


@app.command
def run(
    recipe: Path,
    *,
    set_: Set = (),
    out: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    trust_remote_code: Trust = False,
) -> None:
    """Run all stages of a recipe, from the records to the report.

    Parameters
    ----------
    recipe
        A YAML file; see recipes/.
    out
        The run folder; runs/NAME by default.
    resume
        Continue an interrupted run.
    dry_run
        Print the estimate of `relearn plan` instead of running the recipe.
    """
    if dry_run:
        return plan(recipe, set_=set_, trust_remote_code=trust_remote_code)
    _run_until("report", recipe, set_, out=out, resume=resume, trust_remote_code=trust_remote_code)
    return None


@app.command
def unlearn(
    recipe: Path, *, set_: Set = (), out: Path | None = None, resume: bool = False, trust_remote_code: Trust = False
) -> None:
    """Run the stages of a recipe up to unlearning, without evaluating the unlearned model."""
    _run_until("unlearn", recipe, set_, out=out, resume=resume, trust_remote_code=trust_remote_code)


def _run_until(
    until: str, recipe: Path, changes: tuple[str, ...], *, out: Path | None, resume: bool, trust_remote_code: bool
) -> None:
    """Run the stages of a recipe up to `until`; then print the summary, or the path of the run folder."""
    from relearn.core import distributed
    from relearn.core.console import note
    from relearn.core.ownership import below, read_recipe

    settings = distributed.on_main(lambda: read_recipe(recipe, changes, trust_remote_code=trust_remote_code))
    from relearn.workflows.run.pipeline import run as run_recipe  # imports torch; a faulty recipe is refused before

    folder = run_recipe(settings, out or below(Path("runs"), settings.name), resume=resume, until=until)
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
    audit: Literal["none", "quick", "standard", "full"] | None = None,
    trust_remote_code: Trust = False,
) -> int:
    """Compare unlearning methods on the same records with the same training budget, and write a table of scores.

    The same command continues an interrupted comparison.

    Parameters
    ----------
    recipe
        A comparison file (see experiments/), or a recipe.
    methods
        Comma-separated names: relearn,grad_diff,npo_gdr+sure,retain_only; those in the file by default.
    grid
        Learning rates to try for each method, with a part of the training budget: lr=1e-4,5e-4,2e-3
    out
        The folder for all runs; runs/compare/NAME by default.
    results
        The parent of the folder NAME/ for a JSON file per method, the table, the KFR-KRR plot and sample answers.
    audit
        The strength of the audit of every method, whose worst cases are in the table; by default as the file says.
    """
    from relearn.core.console import note
    from relearn.core.ownership import below
    from relearn.workflows.compare.comparison import compare as compare_methods
    from relearn.workflows.compare.comparison_config import Comparison, files_of, read_grid

    chosen = tuple(filter(None, (name.strip() for name in methods.split(","))))
    changes = (*set_, f"base.audit={audit}") if audit else set_
    settings = Comparison.from_yaml(recipe, changes, trust_remote_code=trust_remote_code)
    settings = settings.choose(chosen, read_grid(grid))
    try:
        compare_methods(settings, out or below(Path("runs/compare"), settings.name), results, read=files_of(recipe))
    except KeyboardInterrupt:
        return fail("interrupted; the same command continues", 130)
    note(f"results: {results / settings.name}")
    return 0


@app.command
def synthesize(
    *,
    forget: Path,
    out: Path,
    generator: str = "templates",
    style: Literal["vague", "private", "unknown"] = "vague",
    generic: Path | None = None,
    seed: int = 0,
    allow_remote: bool = False,
    max_calls: Count | None = None,
) -> None:
    """Generate training rows with new, vague answers for a forget set, without training.

    Parameters
    ----------
    forget
        The records to forget.
    out
        A folder for synthesis.jsonl, rejected.jsonl and the cache of answers, which the same command uses again.
    generator
        templates, openai:MODEL or transformers:MODEL.
    style
        What the answers say: vague, that this is private, or that it is not known.
    generic
        Generic rows to mix in; the built-in ones by default.
    allow_remote
        Allow sending questions about the forget set to another host.
    max_calls
        Stop after this number of generator calls.
    """
    from relearn.core.config import Synthesis
    from relearn.workflows.synthesize import synthesize as write_answers

    settings = Synthesis(generator=generator, style=style, allow_remote=allow_remote, max_calls=max_calls)
    counts = write_answers(forget, out, settings, generic=generic, seed=seed)
    _print_counts(counts)


def _print_counts(counts) -> None:
    from relearn.core.console import note

    for name, value in counts.items():
        note(f"{name}: {value}")


@app.command
def verify(file: Path, *, against: Path, out: Path, strict: bool = False) -> int:
    """Check a file of training rows for leaks: secrets of a forget set.

    Parameters
    ----------
    file
        The rows to check: JSONL, JSON, CSV or Parquet.
    against
        The forget set.
    out
        The file for the flagged rows, one JSON line each.
    strict
        Exit with code 1 when a row is flagged.
    """
    from relearn.core.console import note
    from relearn.synthesis.checks import verify_file

    result = verify_file(file, against, out)
    note(f"{result.flagged} of {result.rows} rows flagged: {out}")
    for kind, count in sorted(result.by_kind.items(), key=lambda entry: -entry[1]):
        note(f"  {kind:<10}{count}")
    if result.note:
        note(result.note)
    return 1 if strict and result.flagged else 0
