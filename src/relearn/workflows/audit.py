"""Audit a finished run, or two given models, with attacks, and write the verdict on every fact (`relearn audit`).

An audit of two models uses an evaluation folder. Its manifest records the hashes of models and files; other models or
changed files raise InputError, and the same command continues an interrupted audit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from relearn.audits.attack import Audit, AuditInputs
from relearn.audits.attacks.weights import AuditWork, training_work
from relearn.audits.audit_runner import RETAIN_QUESTIONS, AuditRun, select_audits
from relearn.audits.scoring import VERDICTS, FactVerdict
from relearn.audits.strength import QUICK, STANDARD, Strength, find_strength
from relearn.core import console
from relearn.core.config import Model, Recipe, Synthesis
from relearn.core.errors import InputError
from relearn.core.files import read_json
from relearn.core.ownership import is_ours, outputs_in, own_folder, refuse_overwrite
from relearn.core.run_dir import AUDIT_RESULTS, RECIPE, SIDES, RunFolder, locked
from relearn.core.splits import SPLITS
from relearn.core.yaml_config import parse_yaml, read_text
from relearn.data import Record
from relearn.data.record import evenly
from relearn.data.validation import DataSet
from relearn.inference.run_models import ModelSet, check_model, fingerprint, has_base_model
from relearn.llm.generators import make_completer
from relearn.report.build import write_report
from relearn.report.sections import ignorance_finding
from relearn.synthesis.checks import Verifier
from relearn.synthesis.questions import write_wordings
from relearn.synthesis.rows import load_generic
from relearn.workflows.evaluate.evaluation_config import Evaluation, from_options
from relearn.workflows.evaluate.inputs import open_evaluation
from relearn.workflows.run.context import RunContext
from relearn.workflows.run.eval_stages import write_summary

OUT = Path("runs/audit")
# Facts in the quick audit at the end of a run, which would else take longer than the run for a large forget set.
QUICK_FACTS = 200
# Facts from which the work of an audit is estimated.
ESTIMATED_FACTS = 20
# Number of other wordings per question if the recipe does not set `metrics.worst_case`.
WORDINGS = 6
PROMPT_MARKS = ("{{ prompt }}", "{{prompt}}", "[INSERT PROMPT HERE]", "PROMPT")


def audit(
    run: Path | str | None = None,
    attacks: str = "",
    *,
    strength: str = STANDARD.name,
    out: Path | str | None = None,
    control: Path | str | None = None,
    templates: Path | str | None = None,
    facts: int | None = None,
    samples: int | None = None,
    trust_remote_code: bool = False,
    changes: Sequence[str] = (),
    **named: Any,
) -> list[FactVerdict]:
    """Audit the run in folder `run`, or, without `run`, the models and records in `named`; return one verdict per fact.

    `strength`: quick, standard or full, the list of attacks and their settings. `attacks`: comma-separated names, or
    "all", instead of the attacks of the strength. `templates`: a folder of jailbreak templates (.yaml with `value`, or
    .txt). `facts`: number of forget records to audit; None for all. `samples`: answers per question in attacks that
    sample, instead of the strength's. `trust_remote_code`: run code from the repositories of the models. The audit of a
    run is written into its folder (`audit_run`), that of two models into `out` (`audit_models`).
    Raises InputError if both are given, and for the errors of these two functions.
    """
    options: dict[str, Any] = {"facts": facts, "strength": _strength(strength, attacks, samples)}
    options["templates"] = None if templates is None else Path(templates)
    if run is None:
        model = None if control is None else str(control)
        named["trust_remote_code"] = trust_remote_code
        return audit_models(Path(out or OUT), attacks, control=model, changes=changes, **options, **named)
    if given := sorted(name for name, value in {**named, "set": changes, "out": out}.items() if value):
        option = {"columns": "map"}.get(given[0], given[0].replace("_", "-"))
        problem = f"a run has its own models, records and folder audits/, and --{option} was given"
        raise InputError(problem, where=str(run), way_out="a run folder, or --before, --after and --forget")
    options["trust_remote_code"] = trust_remote_code
    return audit_run(Path(run), attacks, control=None if control is None else Path(control), **options)


def audit_run(
    folder: Path,
    attacks: str = "",
    *,
    strength: Strength = STANDARD,
    control: Path | None = None,
    templates: Path | None = None,
    facts: int | None = None,
    trust_remote_code: bool = False,
) -> list[FactVerdict]:
    """Audit the run in `folder` and write audits/ into it; answers from an earlier call are reused.

    `control`: a run, adapter or model that was not trained on the facts; the base model if None. Raises InputError for
    a run that is not finished and for files that cannot be read.
    """
    run = own_folder(folder, RECIPE)
    recipe = run.recipe_to_load(trust_remote_code=trust_remote_code)
    audits = select_audits(attacks, strength)
    run.require_answers("before", "after")
    models = ModelSet.of_run(recipe, folder, control=control)
    jailbreaks = read_templates(templates) if templates else {}
    refuse_overwrite(outputs_in(folder), [templates])
    with locked(run):
        job = _audit_of_run(run, recipe, models, audits, strength, jailbreaks=jailbreaks, facts=facts)
        console.note(describe_plan(job.plan(), strength.name, run))
        verdicts = job.run()
        write_summary(run, run.summary)
        write_report(folder)
    return verdicts


def _audit_of_run(
    run: RunFolder,
    recipe: Recipe,
    models: ModelSet,
    audits: Sequence[Audit],
    strength: Strength,
    *,
    jailbreaks: Mapping[str, str] | None = None,
    facts: int | None = None,
) -> AuditRun:
    forget = asked_records(run, "forget")
    audited, strength = _choose_facts(forget, facts, strength)
    material = AuditInputs(
        audited,
        asked_records(run, "retain"),
        load_generic(),
        wordings(audited, run.path, recipe),
        recipe,
        run.path,
        jailbreaks or {},
        strength,
        recipe.seed,
    )
    return AuditRun(material, models, audits)


def audit_outputs(context: RunContext) -> list[str]:
    """List the outputs of the stage `audit` of a run; [] where the recipe asks for no audit."""
    return [] if context.recipe.audit == "none" else list(AUDIT_RESULTS)


def audit_stage(context: RunContext) -> None:
    """Audit a run at its end, with the strength that the recipe names; the quick audit asks at most QUICK_FACTS."""
    strength = find_strength(context.recipe.audit)
    audits, facts = select_audits("", strength), QUICK_FACTS if strength is QUICK else None
    context.models.release()
    models = ModelSet.of_run(context.recipe, context.folder.path)
    job = _audit_of_run(context.folder, context.recipe, models, audits, strength, facts=facts)
    console.note(describe_plan(job.plan(), strength.name, context.folder))
    job.run()


def estimate_audit(recipe: Recipe, data: DataSet) -> AuditWork | None:
    """Estimate the work of the audit at the end of a run from some of its records; None for a run without an audit."""
    if recipe.audit == "none":
        return None
    strength, retain, total = find_strength(recipe.audit), data.retain, len(data.forget)
    facts = evenly(data.forget, ESTIMATED_FACTS)
    asked = (min(total, QUICK_FACTS) if strength is QUICK else total) / len(facts)
    inputs = AuditInputs(
        facts,
        retain,
        load_generic(),
        _generate_wordings(facts, recipe),
        recipe,
        Path(recipe.name),
        {},
        strength,
        recipe.seed,
    )
    models = 3 if has_base_model(recipe) else 2
    audits = select_audits("", strength)
    prompts = models * sum(len(audit.prompts(inputs)) for audit in audits if audit.prompts is not None)
    work = training_work(inputs, min(len(retain), RETAIN_QUESTIONS))
    trained = (models - 1) * any(audit.name == "relearning" for audit in audits)
    return AuditWork(
        prompts=round(asked * (prompts + trained * work.prompts)),
        trainings=trained * work.trainings,
        steps=trained * work.steps,
    )


def audit_models(
    out: Path,
    attacks: str = "",
    *,
    strength: Strength = STANDARD,
    control: str | None = None,
    templates: Path | None = None,
    facts: int | None = None,
    changes: Sequence[str] = (),
    **named: Any,
) -> list[FactVerdict]:
    """Audit the model `after`, unlearned from `before` on the records `forget`; write audits/ into folder `out`.

    `named`: before, after, base, before_adapter, after_adapter, forget, retain, holdout, trust_remote_code, as in
    `relearn evaluate`.
    `control`: a model that was not trained on the facts; `base` if None. Only models given here are loaded, never a
    base model that an adapter file names. Raises InputError for files that cannot be read, for another control model
    than in an earlier call, and for a folder with other content.
    """
    audits = select_audits(attacks, strength)
    settings = _pair_settings(named, changes)
    control_spec = _control(control, settings)
    _check_specs(settings, control_spec)
    jailbreaks = read_templates(templates) if templates else {}
    folder = RunFolder(out)
    identity = control_spec and {"model": control_spec.identity, "sha256": fingerprint(control_spec)}
    if is_ours(out) and not _same_control(folder.manifest.get("control", identity), identity):
        problem = "was audited against another control model, or it has changed"
        raise InputError(problem, where=str(out), way_out="choose another --out")
    assert settings.before is not None and settings.after is not None
    with ExitStack() as held:
        refuse_overwrite(outputs_in(out), (control, templates))
        inputs = open_evaluation(folder, settings, held)
        folder.update_manifest(control=identity)
        recipe = _recipe_of_pair(settings)
        audited, strength = _choose_facts(inputs.records["forget"], facts, strength)
        material = AuditInputs(
            audited,
            inputs.records.get("retain", ()),
            load_generic(),
            wordings(audited, out, recipe),
            recipe,
            out,
            jailbreaks,
            strength,
            settings.seed,
            inputs.records.get("holdout", ()),
        )
        models = ModelSet.of_pair(out, before=settings.before, after=settings.after, control=control_spec)
        job = AuditRun(material, models, audits)
        console.note(describe_plan(job.plan(), strength.name, folder))
        verdicts = job.run()
        if folder.summary:
            write_summary(folder, folder.summary)
        write_report(out)
    return verdicts


def describe_plan(work: AuditWork, strength: str, run: RunFolder) -> str:
    """Describe the work of an audit in one line, with its time where the run recorded how long its stages took."""
    text = f"audit, strength {strength}: {work.line()}"
    stages = run.manifest.get("stages", {})
    answers = sum(len(run.answers("after", split)) for split in SPLITS)
    steps = len({row["step"] for row in run.log_rows if row.get("stage") == "unlearn" and "loss" in row})
    if not answers or not steps or not all(stages.get(name, {}).get("seconds") for name in ("after", "unlearn")):
        return text
    seconds = work.prompts * stages["after"]["seconds"] / answers + work.steps * stages["unlearn"]["seconds"] / steps
    return f"{text}; about {max(1, round(seconds / 60))} minutes, by the time that the run's stages took"


def _choose_facts(
    records: Sequence[Record], facts: int | None, strength: Strength
) -> tuple[Sequence[Record], Strength]:
    """Return at most `facts` records, evenly spaced; the name of the strength then says how many of them."""
    if facts is None or facts >= len(records):
        return records, strength
    return evenly(records, facts), replace(strength, name=f"{strength.name}, {facts:,} of {len(records):,} facts")


def _strength(name: str, attacks: str, samples: int | None) -> Strength:
    """Return a strength; its name says so where attacks or samples were set one by one."""
    strength = find_strength(name)
    if attacks:
        strength = replace(strength, name=f"{attacks if attacks == 'all' else 'chosen'} attacks")
    if samples is None or samples == strength.samples:
        return strength
    return replace(strength, samples=samples, name=f"{strength.name}, {samples} samples")


def _same_control(earlier: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    """Compare two control models; the sha256 of one on the hub is not known before it is loaded."""
    if earlier is None or now is None:
        return earlier is now
    known = {digest for digest in (earlier["sha256"], now["sha256"]) if digest is not None}
    return earlier["model"] == now["model"] and len(known) < 2


def asked_records(run: RunFolder, split: str) -> list[Record]:
    """Return the records of a split, read from the run's answers before unlearning."""
    return [
        Record(row["question"], row["reference"], row["id"], row["subject"], form=row.get("form", "chat"))
        for row in run.answers("before", split)
    ]


def wordings(facts: Sequence[Record], folder: Path, recipe: Recipe) -> dict[str, list[str]]:
    """Return paraphrased questions by record id: held-out questions with the same answer, then generated ones.

    The offline generator writes `metrics.worst_case` questions per fact, or WORDINGS if that is 0.
    """
    held_out: dict[tuple[str | None, str], list[str]] = {}
    for probe in asked_records(RunFolder(folder), "probes_forget"):
        held_out.setdefault((probe.subject, probe.answer), []).append(probe.question)
    written = _generate_wordings(facts, recipe)
    return {
        record.id: list(dict.fromkeys([*held_out.get((record.subject, record.answer), ()), *written[record.id]]))
        for record in facts
    }


def _generate_wordings(facts: Sequence[Record], recipe: Recipe) -> dict[str, list[str]]:
    settings, count = Synthesis(), recipe.metrics.worst_case or WORDINGS
    completer, leaks = make_completer("templates", settings, None), Verifier(facts).leaks
    return write_wordings(facts, count, settings, completer=completer, check_leaks=leaks, seed=recipe.seed)


def read_templates(folder: Path) -> dict[str, str]:
    """Read jailbreak templates from a folder, by file name; PROMPT marks the place of the question, by default the end.

    Raises InputError for a folder without templates and for a file that is not a template.
    """
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml"), *folder.glob("*.txt")]) if folder.is_dir() else []
    if not files:
        raise InputError("no templates there", where=str(folder), way_out="a folder of .yaml (with `value`) or .txt")
    return {file.stem: _template(file) for file in files}


def _template(file: Path) -> str:
    text = read_text(file)
    if file.suffix != ".txt":
        value = next(filter(None, parse_yaml(text, str(file), several=True)), None)
        text = value.get("value") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise InputError("has no text `value`", where=str(file))
    mark = next((mark for mark in PROMPT_MARKS if mark in text), None)
    return f"{text.rstrip()}\n\nPROMPT" if mark is None else text.strip().replace(mark, "PROMPT")


def _pair_settings(named: dict[str, Any], changes: Sequence[str]) -> Evaluation:
    """Make the settings of the two models. Raises InputError without `before`, or for an adapter without its model."""
    for side in SIDES:
        adapters = named.get(f"{side}_adapter") or ()
        if adapters and named.get(side) is None and named.get("before") is None:
            base = _base_of_adapter(Path(adapters[0]).expanduser())
            problem = (
                f"names the base model {base!r}, which is not loaded without asking"
                if base
                else "an adapter needs its model"
            )
            way_out = f"name the model yourself: --{side} {base or 'MODEL'}"
            raise InputError(problem, where=f"--{side}-adapter {adapters[0]}", way_out=way_out)
    if named.get("before") is None:
        way_out = "name the model that knew the facts: --before MODEL --after MODEL"
        raise InputError("an audit compares two models", where="--before", way_out=way_out)
    settings = from_options(**named, changes=changes)
    if settings.forget is None:
        raise InputError("an audit asks about the facts to forget", where="--forget", way_out="name their file")
    return settings


def _control(control: str | None, settings: Evaluation) -> Model | None:
    if control is None:
        return settings.base
    assert settings.after is not None
    return settings.after.model_copy(update={"name": control, "adapter": None, "revision": None})


def _check_specs(settings: Evaluation, control: Model | None) -> None:
    specs = {"--before": settings.before, "--after": settings.after, "--base": settings.base, "--control": control}
    for option, spec in specs.items():
        if spec is not None:
            refuse_hidden_base(spec, option)
    if control is not None:
        check_model(control, "--control")


def refuse_hidden_base(spec: Model, option: str) -> None:
    """Raise InputError for an adapter folder given as a model, because the base model that it names would be loaded."""
    folder = Path(spec.name).expanduser()
    if folder.is_dir() and (folder / "adapter_config.json").exists():
        base = _base_of_adapter(folder) or "MODEL"
        problem = f"holds an adapter that names the base model {base!r}, which is not loaded without asking"
        way_out = f"{option} {base} {option}-adapter {spec.name}"
        raise InputError(problem, where=f"{option} {spec.name}", way_out=way_out)


def _base_of_adapter(adapter: Path) -> str | None:
    file = adapter / "adapter_config.json"
    if not file.exists():
        return None
    try:
        config = read_json(file)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError("cannot be read", where=str(file)) from None
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return base if isinstance(base, str) else None


def _recipe_of_pair(settings: Evaluation) -> Recipe:
    assert settings.forget is not None
    return Recipe.from_mapping(
        {
            "model": settings.after.model_dump(mode="json") if settings.after else "",
            "seed": settings.seed,
            "data": {"forget": settings.forget.path},
            "generate": settings.generate.model_dump(mode="json"),
            "metrics": settings.metrics.model_dump(mode="json"),
        },
        variables=False,
    )


def print_audit(folder: Path, verdicts: Sequence[FactVerdict]) -> None:
    """Print the table of attacks and the number of facts by verdict."""
    run = RunFolder(folder)
    table = _table("share of facts stated", 1, "attack", *_COLUMNS, "brought back", "change against the plain question")
    for name, row in run.audit_summary.items():
        if "shown" not in row:
            shares = [row[model]["stated"] for model in _COLUMNS]
            table.add_row(escape(name), *map(_share, (*shares, row["back"], row["change"])))
    console.out.print(table)
    _print_measures({name: row for name, row in run.audit_summary.items() if "shown" in row})
    worst = _share(run.audit_worst_case["after"])
    if sentence := ignorance_finding(run.audit_summary.get("ignorance", {}).get("after", {})):
        console.out.print(sentence, markup=False, highlight=False)
    tried = run.audit_worst_case.get("strength", "not recorded")
    console.out.print(f"worst case over the attacks that count: {worst} of the facts known before", highlight=False)
    console.out.print(f"strength: {tried}", markup=False, highlight=False)
    counts = Counter(verdict.verdict for verdict in verdicts)
    console.out.print(", ".join(f"{name} {counts[name]}" for name in VERDICTS), markup=False)


_COLUMNS = ("before", "after", "control")


def _print_measures(summary: Mapping[str, Any]) -> None:
    """Print the measures of attacks of family "access", except measures per layer."""
    if not summary:
        return
    table = _table("shown beside the verdicts", 2, "attack", "measure", *_COLUMNS)
    for name, row in summary.items():
        measures = [measure for measure in row["after"] if not measure.startswith("layer ")]
        for measure in measures:
            cells = (row[model].get(measure, {"value": None}) for model in _COLUMNS)
            table.add_row(escape(name), escape(measure), *map(_share, cells))
        if not measures:
            table.add_row(escape(name), f"not measured: {row['not_measured']}", "", "", "")
    console.out.print(table)


def _table(title: str, names: int, *columns: str) -> Table:
    """Make an empty table: the first `names` columns are for text, the others for numbers."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < names else "right")
    return table


def _share(measured: dict[str, Any]) -> str:
    if measured["value"] is None:
        return "not asked"
    interval = f" ({measured['low']:.2f} to {measured['high']:.2f})" if measured.get("low") is not None else ""
    return f"{measured['value']:.2f}{interval}"
