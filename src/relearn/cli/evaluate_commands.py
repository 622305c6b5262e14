"""Define the commands that measure models or ask them questions: evaluate, audit, analyze, ask, generate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from relearn.cli.app import Count, Trust, app, fail, show
from relearn.core.errors import InputError


@app.command
def evaluate(
    run: Path | None = None,
    *,
    forget: str | None = None,
    retain: str | None = None,
    holdout: str | None = None,
    after: str | None = None,
    before: str | None = None,
    base: str | None = None,
    after_adapter: tuple[str, ...] = (),
    before_adapter: tuple[str, ...] = (),
    map_: Annotated[str, Parameter(name="--map")] = "",
    metrics: str = "",
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    out: Path | None = None,
    trust_remote_code: Trust = False,
) -> int:
    """Evaluate one model, two models or files of answers, or score the answers of a run again. See docs/evaluate.md.

    The same command continues an interrupted evaluation.

    Parameters
    ----------
    run
        The folder of a run or an evaluation; its answers are scored again and its report is rewritten.
    forget
        Records that should be forgotten; without --after, a file of a model's answers to them.
    retain
        Records that should still be known; without --after, a file of a model's answers to them.
    holdout
        Records similar to the forget set that no model was trained on, for membership inference.
    after
        The model to evaluate: smollm2-135m-instruct, a folder, or a name on the hub.
    before
        The model to compare it with.
    base
        The model before any fine-tuning, used to compute PPL and LS.
    after_adapter
        The folder of a LoRA adapter for --after, or for --before without --after; may be repeated.
    before_adapter
        The folder of a LoRA adapter for --before; may be repeated.
    map_
        The columns to read: question=text,answer=labels
    metrics
        Comma-separated names: kfr,krr,rouge_l; all by default.
    set_
        Change a setting: metrics.c1=0.5, generate.temperature=0.7, forget.limit=50, model.dtype=bfloat16 (all models)
    out
        The folder for answers, scores and report, without `run`; runs/evaluation by default.
    """
    from relearn.core import distributed
    from relearn.core.console import note
    from relearn.workflows.evaluate.evaluation import evaluate as evaluate_all
    from relearn.workflows.evaluate.evaluation_config import read_columns

    try:
        folder = evaluate_all(
            run,
            out=out,
            changes=set_,
            trust_remote_code=trust_remote_code,
            forget=forget,
            retain=retain,
            holdout=holdout,
            after=after,
            before=before,
            base=base,
            after_adapter=after_adapter,
            before_adapter=before_adapter,
            columns=read_columns(map_),
            measure=tuple(filter(None, map(str.strip, metrics.split(",")))),
        )
    except KeyboardInterrupt:
        return fail("interrupted; the same command continues", 130)
    distributed.leave()
    if distributed.is_main():
        show(folder.path)
        for line in folder.manifest.get("notes", []):
            note(line)
    return 0


@app.command
def audit(
    folder: Path | None = None,
    *,
    strength: str = "standard",
    attacks: str = "",
    control: str | None = None,
    templates: Path | None = None,
    facts: Count | None = None,
    samples: Count | None = None,
    before: str | None = None,
    after: str | None = None,
    base: str | None = None,
    before_adapter: tuple[str, ...] = (),
    after_adapter: tuple[str, ...] = (),
    forget: str | None = None,
    retain: str | None = None,
    holdout: str | None = None,
    map_: Annotated[str, Parameter(name="--map")] = "",
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    out: Path | None = None,
    trust_remote_code: Trust = False,
) -> None:
    """Audit a finished run, or any two models: run attacks and decide for every fact whether it is still known.

    The verdict on a fact is that it is gone, hidden (an attack recovers it) or still there.

    The same command continues an interrupted audit.

    Parameters
    ----------
    folder
        A run folder; without it, --before, --after and --forget are needed.
    strength
        How hard the attacks try: quick (about a minute), standard (about half an hour), or full (hours).
    attacks
        Comma-separated names, or all, instead of the attacks of the strength: completion,quantise (see relearn list
        audits).
    control
        A run, adapter or model that was never trained on the facts; the base model by default.
    templates
        A folder of jailbreak templates: .yaml files with a key `value`, or .txt files.
    facts
        The maximum number of facts to ask about.
    samples
        The number of samples per question in the sampling attack, instead of the strength's.
    before
        The model that knows the facts: smollm2-135m-instruct, a folder, or a name on the hub.
    after
        The model that should have forgotten them.
    base
        The model before any fine-tuning; the control by default.
    before_adapter
        The folder of a LoRA adapter for --before; may be repeated.
    after_adapter
        The folder of a LoRA adapter for --after, or for --before without --after; may be repeated.
    forget
        The facts that should be forgotten.
    retain
        Records that should still be known; some attacks need them.
    holdout
        Records similar to the facts that no model was trained on, for membership inference.
    map_
        The columns to read: question=text,answer=labels
    set_
        Change a setting of an audit without a run folder: generate.max_new_tokens=64, model.dtype=bfloat16
    out
        The folder of an audit without a run folder; runs/audit by default.
    """
    from relearn.core.console import note
    from relearn.workflows.audit import OUT, print_audit
    from relearn.workflows.audit import audit as attack
    from relearn.workflows.evaluate.evaluation_config import read_columns

    verdicts = attack(
        folder,
        attacks,
        out=out,
        control=control,
        templates=templates,
        facts=facts,
        strength=strength,
        samples=samples,
        trust_remote_code=trust_remote_code,
        changes=set_,
        columns=read_columns(map_),
        before=before,
        after=after,
        base=base,
        before_adapter=before_adapter,
        after_adapter=after_adapter,
        forget=forget,
        retain=retain,
        holdout=holdout,
    )
    folder = folder or out or OUT
    print_audit(folder, verdicts)
    note(f"per fact: {folder / 'audits' / 'verdicts.json'}")


@app.command
def analyze(
    folder: Path,
    *others: Path,
    prompt: tuple[str, ...] = (),
    facts: Count = 12,
    lens: Literal["logit", "tuned"] = "logit",
    lens_text: Path | None = None,
    trust_remote_code: Trust = False,
) -> None:
    """Analyze the weights and layers of a run's models: token ranks, logit lens, patching, spectrum of the adapter.

    Parameters
    ----------
    folder
        A run folder; results and plots are written to its analysis/.
    others
        Other runs of the same start model, for comparison.
    prompt
        Your own questions; the answers of the start model to them are analyzed.
    facts
        The number of facts to analyze.
    lens
        logit: apply the output layer to each layer directly; tuned: through a linear map fitted to the start model.
    lens_text
        The text to fit the tuned lens on (plain text or rows); the built-in generic rows by default.
    """
    from relearn.core.console import note
    from relearn.workflows.analyze import analyze as look

    out = look(
        folder, others, prompts=prompt, facts=facts, lens=lens, lens_text=lens_text, trust_remote_code=trust_remote_code
    )
    note(f"analysis: {out}")


@app.command
def ask(folder: Path, *question: str, trust_remote_code: Trust = False) -> None:
    """Ask the models before and after unlearning the same questions, and print the answers side by side.

    Parameters
    ----------
    folder
        A run folder.
    question
        One or more questions, each in quotes.
    """
    from relearn.workflows.ask import answers_before_and_after, print_side_by_side

    if not question:
        raise InputError("no question given", way_out='relearn ask RUN "Where does X live?"')
    print_side_by_side(answers_before_and_after(folder, list(question), trust_remote_code=trust_remote_code))


@app.command
def human(
    *runs: Path,
    out: Path | None = None,
    sets: str = "forget",
    questions: Count = 20,
    seed: int = 0,
    import_: Annotated[tuple[Path, ...], Parameter(name="--import")] = (),
    key: Path | None = None,
) -> None:
    """Write a form in which people rate the answers of runs blindly, or compute the results of filled-in forms.

    The form is one HTML page that works offline and saves the grades as CSV. Its key, FORM.key.json, says which answer
    is of which run: keep it from the raters.

    Parameters
    ----------
    runs
        Folders of runs or evaluations whose answers are rated.
    out
        The form, a new .html file; with --import, a JSON file for the results.
    sets
        Comma-separated sets of questions: forget,retain,probes_forget,probes_retain.
    questions
        The maximum number of questions of each set.
    seed
        The seed of the order of the answers.
    import_
        A CSV file saved by the form; may be repeated, once for each rater.
    key
        The key of the form, needed by --import.
    """
    from relearn.core.console import note
    from relearn.report.human import human_results, make_form, print_human

    if import_:
        if runs:
            raise InputError("makes a form, --import reads one", where=str(runs[0]), way_out="one at a time")
        if key is None:
            problem = "needs the key of the form, which says what answer is of which run"
            raise InputError(problem, where="--import", way_out="--key FORM.key.json")
        print_human(human_results(import_, key, out))
        return
    if not runs or out is None:
        way_out = "relearn human RUN [RUN...] --out form.html, or relearn human --import form.csv --key form.key.json"
        raise InputError("no run given" if not runs else "no form named", way_out=way_out)
    chosen = tuple(filter(None, map(str.strip, sets.split(","))))
    note(f"key, not for the raters: {make_form(runs, out, seed=seed, questions=questions, splits=chosen)}")
    note(f"form: {out}")


@app.command
def generate(folder: Path, *, out: Path | None = None, questions: Path, trust_remote_code: Trust = False) -> None:
    """Generate answers to a file of questions with the models before and after unlearning, as JSON lines.

    Parameters
    ----------
    folder
        A run folder.
    questions
        A file of records: JSONL, JSON, CSV or Parquet.
    out
        The output file; the screen by default.
    """
    from relearn.core.config import DataSource
    from relearn.core.console import out as screen
    from relearn.core.files import write_jsonl
    from relearn.core.ownership import refuse_overwrite
    from relearn.data.validation import load_set
    from relearn.workflows.ask import answers_before_and_after, recipe_of
    from relearn.workflows.run.inputs import input_paths

    recipe = recipe_of(folder, trust_remote_code=trust_remote_code)
    refuse_overwrite([out] if out else [], (questions, folder, *input_paths(recipe)))
    records, _ = load_set((DataSource(path=str(questions)),), "forget", str(questions))
    questions_only = [record.question for record in records]
    rows = answers_before_and_after(folder, questions_only, trust_remote_code=trust_remote_code)
    if out:
        write_jsonl(out, rows)
    else:
        for row in rows:
            screen.print_json(data=row)
