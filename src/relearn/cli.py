"""The command line: one command per stage. Bodies import what they need, so --help is instant.

Exit codes: 0 done; 1 the run failed; 2 the input is wrong (one line, no traceback); 130 interrupted, resumable.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import App, Parameter

from relearn import __version__
from relearn.errors import InputError, RelearnError

app = App(
    name="relearn", version=__version__, help="Make a language model forget, and show that it did.",
    default_parameter=Parameter(negative=()), suppress_keyboard_interrupt=False,
)  # fmt: skip

Set = Annotated[tuple[str, ...], Parameter(name="--set", help="Change a key of the recipe: unlearn.epochs=2")]


def main() -> None:
    """Entry point of the `relearn` command."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors the user can meet end in one line."""
    try:
        _check_launch(arguments)
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else 0
    except RelearnError as error:
        return _fail(str(error), error.exit_code, shared=error.shared)
    except cyclopts.CycloptsError as error:
        return _fail(f"{' '.join(str(error).split())} -> see relearn --help", 2)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command with --resume goes on from here", 130)
    except BrokenPipeError:
        return 1


def _fail(text: str, code: int, *, shared: bool = True) -> int:
    """Say what went wrong; what went wrong in all processes alike is said by the main one."""
    from relearn import parallel

    if parallel.is_main():
        print(f"relearn: {text}", file=sys.stderr)
    elif not shared:
        print(f"relearn: process {parallel.rank()}: {text}", file=sys.stderr)
    return code


def _check_launch(arguments: list[str]) -> None:
    from relearn import parallel

    shared = arguments[:1] in (["run"], ["unlearn"], ["evaluate"]) and "--dry-run" not in arguments
    if parallel.launched() > 1 and not shared:
        error = InputError(
            "several processes can share `run`, `unlearn` and `evaluate` alone", way_out="start this one alone"
        )
        raise parallel.everywhere(error)


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

    settled = parallel.on_main(lambda: Recipe.from_yaml(recipe, changes))
    _finish(settled, out or Path("runs") / settled.name, resume=resume, until=until)


def _finish(recipe, out: Path, *, resume: bool, until: str) -> None:
    from relearn import parallel
    from relearn.console import note
    from relearn.pipeline import run as run_recipe

    folder = run_recipe(recipe, out, resume=resume, until=until)
    parallel.leave()
    if not parallel.is_main():
        return
    if until == "report":
        _show(folder.path)
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

    chosen = tuple(filter(None, (name.strip() for name in methods.split(","))))
    settled = Comparison.from_yaml(recipe, set_).choose(chosen, read_grid(grid))
    try:
        compare_methods(settled, out or Path("runs") / "compare" / settled.name, results)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from here", 130)
    note(f"results: {results / settled.name}")
    return 0


@app.command
def plan(recipe: Path, *, set_: Set = ()) -> None:
    """Print rows, generator calls, tokens, cost, memory, and what would be sent where. Spends nothing."""
    from relearn.config import Recipe
    from relearn.console import out as screen
    from relearn.estimate import plan_lines

    for line in plan_lines(Recipe.from_yaml(recipe, set_)):
        screen.print(line, markup=False, soft_wrap=True)


@app.command
def generate(folder: Path, *, out: Path | None = None, questions: Path) -> None:
    """Ask a run's model a file of questions, before and after; one JSON line each.

    Parameters
    ----------
    folder
        A run folder.
    questions
        A file of records: JSONL, JSON, CSV or Parquet.
    out
        Where to write; the screen when not given.
    """
    from relearn.asking import answers_before_and_after
    from relearn.config import Source
    from relearn.console import out as screen
    from relearn.records.checks import load_set
    from relearn.rundir import write_jsonl

    records, _ = load_set((Source(path=str(questions)),), "forget", str(questions))
    rows = answers_before_and_after(folder, [record.question for record in records])
    if out:
        write_jsonl(out, rows)
    else:
        for row in rows:
            screen.print_json(data=row)


@app.command
def ask(folder: Path, *question: str) -> None:
    """Ask a run's model before and after, side by side.

    Parameters
    ----------
    folder
        A run folder.
    question
        The question; several may be given, each in quotes.
    """
    from relearn.asking import answers_before_and_after, print_side_by_side

    if not question:
        raise InputError("no question given", way_out='relearn ask RUN "Where does X live?"')
    print_side_by_side(answers_before_and_after(folder, list(question)))


@app.command
def evaluate(
    run: Path | None = None, *, forget: str | None = None, retain: str | None = None, holdout: str | None = None,
    after: str | None = None, before: str | None = None, base: str | None = None, after_adapter: tuple[str, ...] = (),
    before_adapter: tuple[str, ...] = (), map_: Annotated[str, Parameter(name="--map")] = "", metrics: str = "",
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (), out: Path = Path("runs/evaluation"),
) -> int:  # fmt: skip
    """Score two models, one model, files of answers, or an existing run once more. See docs/evaluate.md.

    The same command goes on with an evaluation that was stopped, and does nothing where all is done.

    Parameters
    ----------
    run
        A run folder, or an evaluation's: its answers are judged again and its report is written anew.
    forget
        Records that should be forgotten; without --after, a file that holds a model's answers to them.
    retain
        Records that should still be known, or a file that holds the answers.
    holdout
        Records like those to forget that no model was trained on, for membership inference.
    after
        The model to score: smollm2-135m-instruct, a folder, or a name on the hub.
    before
        The model to compare it with.
    base
        A model from before any fine-tuning: PPL and LS rest on it.
    after_adapter
        A LoRA adapter's folder for --after, or for --before where no --after is given; may be repeated.
    before_adapter
        A LoRA adapter's folder for --before; may be repeated.
    map_
        Which columns to read: question=text,answer=labels
    metrics
        Names with commas between: kfr,krr,rouge_l; all when not given.
    set_
        Change a setting: metrics.c1=0.5, generate.temperature=0.7, forget.limit=50, model.dtype=bfloat16 (all models)
    out
        The folder for answers, scores and report.
    """
    from relearn import parallel
    from relearn.console import note
    from relearn.evaluation.run import evaluate as evaluate_all
    from relearn.evaluation.settings import read_columns

    try:
        folder = evaluate_all(
            run, out=out, changes=set_, forget=forget, retain=retain, holdout=holdout, after=after, before=before,
            base=base, after_adapter=after_adapter, before_adapter=before_adapter, columns=read_columns(map_),
            measure=tuple(filter(None, map(str.strip, metrics.split(",")))),
        )  # fmt: skip
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from here", 130)
    parallel.leave()
    if parallel.is_main():
        _show(folder.path)
        for line in folder.manifest.get("notes", []):
            note(line)
    return 0


@app.command
def synthesize(
    *, forget: Path, out: Path, generator: str = "templates", generic: Path | None = None, seed: int = 0,
    allow_remote: bool = False, max_calls: int | None = None,
) -> None:  # fmt: skip
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
    from relearn.config import Synthesis
    from relearn.pipeline import synthesize as write_answers

    settings = Synthesis(generator=generator, allow_remote=allow_remote, max_calls=max_calls)
    counts = write_answers(forget, out, settings, generic=generic, seed=seed)
    _print_counts(counts)


def _print_counts(counts) -> None:
    from relearn.console import note

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
    from relearn.console import note
    from relearn.synthesis.verification import verify_file

    found = verify_file(file, against, out)
    note(f"{found.flagged} of {found.rows} rows flagged: {out}")
    for kind, count in sorted(found.by_kind.items(), key=lambda entry: -entry[1]):
        note(f"  {kind:<10}{count}")
    return 1 if strict and found.flagged else 0


@app.command
def report(folder: Path, *, redact: bool = False) -> None:
    """Write a run's report again.

    Parameters
    ----------
    folder
        A run folder.
    redact
        Hide every text of the records and answers.
    """
    from relearn.console import note
    from relearn.report.build import write_report

    note(f"report: {write_report(_existing(folder), redact=redact)}")


@app.command
def export(folder: Path, *, out: Path, answers: bool = False) -> None:
    """Merge a run's adapter into the model and save it in safetensors form, or write its answers for other tools.

    Parameters
    ----------
    folder
        A run folder; with --answers an evaluation's will do.
    out
        A new folder.
    answers
        Not the model but the answers, as the public ReLearn code has them: query, ground_truth, generated_response.
    """
    from relearn.console import note

    if answers:
        from relearn.evaluation.export import export_answers

        for path in export_answers(folder, out):
            note(f"answers: {path}")
        return
    from relearn.asking import export_merged

    export_merged(_existing(folder), out)
    note(f"model: {out}")


@app.command
def audit(
    folder: Path, *, attacks: str = "all", control: Path | None = None, templates: Path | None = None,
    facts: int | None = None, samples: int = 8,
) -> None:  # fmt: skip
    """Attack a finished run and say of every fact whether it is gone, hidden or still there.

    An audit that was stopped goes on where it was; what was asked is not asked again.

    Parameters
    ----------
    folder
        A run folder.
    attacks
        all, or names: completion,quantise (see relearn list audits).
    control
        A run, adapter or model that never saw the facts; the base model when not given.
    templates
        A folder of jailbreak templates: .yaml with a value, or .txt.
    facts
        Ask about so many of the facts only.
    samples
        Draws per question of the sampling attack.
    """
    from relearn.auditing import audit as attack
    from relearn.auditing import print_audit
    from relearn.console import note

    print_audit(folder, attack(folder, attacks, control=control, templates=templates, facts=facts, samples=samples))
    note(f"per fact: {folder / 'audits' / 'verdicts.json'}")


@app.command
def analyze(folder: Path, *others: Path, prompt: tuple[str, ...] = (), facts: int = 12) -> None:
    """Look inside a run's model, before and after: likeliest tokens, layers, patching, the adapter.

    Parameters
    ----------
    folder
        A run folder; numbers and pictures go to its analysis/.
    others
        Further runs of the same start model, drawn beside it.
    prompt
        Questions of your own; their answers are the start model's.
    facts
        Look at so many of the facts.
    """
    from relearn.analyzing import analyze as look
    from relearn.console import note

    note(f"analysis: {look(folder, others, prompts=prompt, facts=facts)}")


@app.command
def purge(folder: Path, *, yes: bool = False) -> None:
    """Remove every text from a run folder; the adapter and the scores without texts stay.

    Parameters
    ----------
    folder
        A run folder.
    yes
        Do it; without it, only say what would go.
    """
    from relearn.console import note
    from relearn.purge import purge as purge_folder

    for name in purge_folder(_existing(folder), really=yes):
        note(f"{'removed' if yes else 'would remove'} {name}")
    if not yes:
        note("nothing was removed; add --yes")


@app.command(name="list")
def list_(what: Literal["methods", "metrics", "audits", "generators"], *, json: bool = False) -> None:
    """What there is to choose from.

    Parameters
    ----------
    what
        methods, metrics, audits or generators.
    json
        Print JSON.
    """
    from relearn.listing import print_listing

    print_listing(what, as_json=json)


@app.command
def doctor(*, judge: str | None = None) -> int:
    """Say what is there, what is missing and how to get it; or whether a judge can be trusted.

    Parameters
    ----------
    judge
        openai:MODEL or transformers:MODEL: let it grade ten answers that were graded by hand; exit code 1 if it is not
        usable. They are of invented people.
    """
    if judge is not None:
        return _check_judge(judge)
    from relearn.doctor import checks, render

    render(checks())
    return 0


def _check_judge(name: str) -> int:
    from relearn.config import Metrics
    from relearn.console import out as screen
    from relearn.metrics.judge_check import judge_check
    from relearn.metrics.judged import NamedGrader

    found = judge_check(NamedGrader(Metrics(judge=name, allow_remote=True)))
    for line in found.lines():
        screen.print(line, markup=False, soft_wrap=True)
    return 0 if found.usable else 1


def _existing(folder: Path) -> Path:
    from relearn.rundir import existing_run

    return existing_run(folder)


def _show(folder: Path) -> None:
    from relearn.console import note
    from relearn.report.tables import print_summary

    print_summary(folder)
    note(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
    main()
