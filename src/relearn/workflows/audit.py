"""`relearn audit RUN`: the attacks on a finished run, made of what its own folder holds.

`relearn audit`: the attacks on a run, or on any two models (--before MODEL --after MODEL --forget FILE) without one.

The folder is an evaluation's: what it was begun with is written down, another model or a changed file is refused, and
the same command goes on where it was.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from relearn.audits.attack import AuditInputs
from relearn.audits.audit_runner import AuditRun, select_audits
from relearn.audits.scoring import VERDICTS, FactVerdict
from relearn.core import console
from relearn.core.config import Model, Recipe, Synthesis
from relearn.core.errors import InputError
from relearn.core.run_dir import (
    RunDir,
    is_ours,
    locked,
    outputs_in,
    own_folder,
    read_json,
    read_jsonl,
    refuse_overwrite,
)
from relearn.data import Record
from relearn.data.record import evenly
from relearn.inference.run_models import (
    MODELS,
    AuditModels,
    ModelName,
    check_model,
    fingerprint,
    put_adapter,
    scale_adapter,
)
from relearn.llm.generators import make_completer
from relearn.models.load import Loaded, load
from relearn.report.build import write_report
from relearn.synthesis.checks import Verifier
from relearn.synthesis.questions import write_wordings
from relearn.synthesis.rows import load_generic
from relearn.workflows.evaluate.evaluation_config import Evaluation, from_options
from relearn.workflows.evaluate.inputs import take

WORDINGS = 6
PROMPT_MARKS = ("{{ prompt }}", "{{prompt}}", "[INSERT PROMPT HERE]", "PROMPT")


def audit_run(
    folder: Path,
    attacks: str = "all",
    *,
    control: Path | None = None,
    templates: Path | None = None,
    facts: int | None = None,
    samples: int = 8,
) -> list[FactVerdict]:
    """Attack the run in `folder` and write audits/; answers that are there already are not asked for again.

    `control`: a run, adapter or model that never saw the facts; the base model when None. `templates`: a folder of
    jailbreak templates (.yaml with `value`, or .txt). `facts`: at most so many of the forget records. Raises InputError
    for a run that is not finished and for what cannot be read.
    """
    recipe = Recipe.from_yaml(own_folder(folder, "recipe.yaml") / "recipe.yaml")
    audits = select_audits(attacks)
    for needed in ("before/forget.jsonl", "after/forget.jsonl"):
        if not (folder / needed).exists():
            raise InputError(
                "this run is not finished, or was purged",
                where=str(folder / needed),
                way_out="relearn run ... --resume",
            )
    models = AuditModels(recipe, folder, control)
    material = _material(recipe, folder, read_templates(templates) if templates else {}, facts, samples)
    refuse_overwrite(outputs_in(folder), [templates])
    with locked(RunDir(folder)):
        found = AuditRun(material, models, audits).do()
        write_report(folder)
    return found


def _material(recipe: Recipe, folder: Path, templates: dict[str, str], facts: int | None, samples: int) -> AuditInputs:
    forget = _records(folder, "forget")
    chosen_facts = evenly(forget, facts) if facts else forget
    return AuditInputs(
        chosen_facts,
        _records(folder, "retain"),
        load_generic(),
        wordings(chosen_facts, folder, recipe),
        recipe,
        folder,
        templates,
        samples,
        recipe.seed,
    )


def _records(folder: Path, part: str) -> list[Record]:
    path = folder / "before" / f"{part}.jsonl"
    rows = read_jsonl(path) if path.exists() else []
    return [
        Record(row["question"], row["reference"], row["id"], row["subject"], form=row.get("form", "chat"))
        for row in rows
    ]


def wordings(facts: Sequence[Record], folder: Path, recipe: Recipe) -> dict[str, list[str]]:
    """Other questions for each fact: held-out ones with the same answer, then wordings written offline, as many as
    `metrics.worst_case` says or six."""
    held_out: dict[tuple[str | None, str], list[str]] = {}
    for probe in _records(folder, "probes_forget"):
        held_out.setdefault((probe.subject, probe.answer), []).append(probe.question)
    settings = Synthesis()
    count = recipe.metrics.worst_case or WORDINGS
    written = write_wordings(
        facts, count, settings, make_completer("templates", settings, None), Verifier(facts).leaks, recipe.seed
    )
    return {
        record.id: list(dict.fromkeys([*held_out.get((record.subject, record.answer), ()), *written[record.id]]))
        for record in facts
    }


def read_templates(folder: Path) -> dict[str, str]:
    """Name -> template, PROMPT where the question belongs; a template without a place for it takes it at the end."""
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml"), *folder.glob("*.txt")]) if folder.is_dir() else []
    if not files:
        raise InputError("no templates there", where=str(folder), way_out="a folder of .yaml (with `value`) or .txt")
    return {file.stem: _template(file) for file in files}


def _template(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".txt":
        try:
            value = next(part for part in yaml.safe_load_all(text) if part)
        except (yaml.YAMLError, StopIteration):
            raise InputError("not YAML", where=str(file)) from None
        text = value.get("value") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise InputError("has no text `value`", where=str(file))
    mark = next((mark for mark in PROMPT_MARKS if mark in text), None)
    return f"{text.rstrip()}\n\nPROMPT" if mark is None else text.strip().replace(mark, "PROMPT")


def print_audit(folder: Path, found: Sequence[FactVerdict]) -> None:
    """The table of attacks, and how many facts have which verdict."""
    summary: dict[str, Any] = read_json(folder / "audits" / "summary.json")
    table = Table(title="share of facts stated")
    for name in ("attack", "before", "after", "control", "brought back", "change against the plain question"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    for name, row in summary.items():
        if "shown" in row:
            continue
        cells = (row["before"]["stated"], row["after"]["stated"], row["control"]["stated"], row["back"], row["change"])
        table.add_row(escape(name), *map(_shown, cells))
    console.out.print(table)
    _print_beside(summary)
    worst = read_json(folder / "audits" / "worst.json")
    console.out.print(f"worst case over the attacks that count: {_shown(worst['after'])} of the facts known before")
    counts = Counter(verdict.verdict for verdict in found)
    console.out.print(", ".join(f"{name} {counts[name]}" for name in VERDICTS), markup=False)


def _print_beside(summary: Mapping[str, Any]) -> None:
    """What attacks read inside the model; per-layer numbers stay in their files."""
    inside = {name: row for name, row in summary.items() if "shown" in row}
    if not inside:
        return
    table = Table(title="shown beside the verdicts")
    for name in ("attack", "measure", "before", "after", "control"):
        table.add_column(name, justify="left" if name in ("attack", "measure") else "right")
    nothing = {"value": None}
    for name, row in inside.items():
        measures = [one for one in row["after"] if not one.startswith("layer ")]
        for measure in measures:
            cells = (row[side].get(measure, nothing) for side in ("before", "after", "control"))
            table.add_row(escape(name), escape(measure), *map(_shown, cells))
        if not measures:
            table.add_row(escape(name), f"not measured: {row['not_measured']}", "", "", "")
    console.out.print(table)


def _shown(measured: dict[str, Any]) -> str:
    if measured["value"] is None:
        return "not asked"
    interval = f" ({measured['low']:.2f} to {measured['high']:.2f})" if measured.get("low") is not None else ""
    return f"{measured['value']:.2f}{interval}"


class PairModels:
    """The models named by the caller, each loaded anew when asked for; adapters are merged into the weights."""

    def __init__(self, settings: Evaluation, control: Model | None):
        assert settings.before is not None and settings.after is not None
        self._specs: dict[ModelName, Model] = {"start": settings.before, "after": settings.after}
        if control is not None:
            self._specs["control"] = control

    @property
    def control_name(self) -> str:
        return self._specs["control"].name if "control" in self._specs else "none was given"

    @property
    def has_adapter(self) -> bool:
        return bool(self._specs["after"].adapters)

    @property
    def roles(self) -> Sequence[ModelName]:
        return [name for name in MODELS if name in self._specs]

    def fresh(self, name: ModelName, share: float = 1.0) -> Loaded:
        """The model `name`; `share` is the strength of its last adapter."""
        gc.collect()
        spec = self._specs[name]
        if share == 1 or not spec.adapters:
            return load(spec)
        *below, last = spec.adapters
        loaded = put_adapter(load(spec.model_copy(update={"adapter": tuple(below) or None})), Path(last).expanduser())
        scale_adapter(loaded.model, share)
        loaded.model = loaded.model.merge_and_unload().eval()
        return loaded

    def maker(self, name: ModelName) -> Callable[..., Loaded]:
        return lambda **options: self.fresh(name, **options)


def audit(
    run: Path | str | None = None,
    attacks: str = "all",
    *,
    out: Path | str = Path("runs/audit"),
    control: Path | str | None = None,
    templates: Path | str | None = None,
    facts: int | None = None,
    samples: int = 8,
    changes: Sequence[str] = (),
    **named: Any,
) -> list[FactVerdict]:
    """Attack the run in folder `run`, or without one the models and records that are `named`; one verdict per fact.

    A run's audit is written into its folder (`audit_run`), one of two models into `out` (`audit_models`, which
    says what can be named). Raises InputError where both are given, and as these two do.
    """
    filled = None if templates is None else Path(templates)
    if run is None:
        return audit_models(
            Path(out),
            attacks,
            control=None if control is None else str(control),
            templates=filled,
            facts=facts,
            samples=samples,
            changes=changes,
            **named,
        )
    if given := sorted(name for name, value in {**named, "set": changes}.items() if value):
        option = {"columns": "map"}.get(given[0], given[0].replace("_", "-"))
        raise InputError(
            f"a run has its own models and records, and --{option} was given",
            where=str(run),
            way_out="a run folder, or --before, --after and --forget",
        )
    return audit_run(
        Path(run),
        attacks,
        control=None if control is None else Path(control),
        templates=filled,
        facts=facts,
        samples=samples,
    )


def audit_models(
    out: Path,
    attacks: str = "all",
    *,
    control: str | None = None,
    templates: Path | None = None,
    facts: int | None = None,
    samples: int = 8,
    changes: Sequence[str] = (),
    **named: Any,
) -> list[FactVerdict]:
    """Attack the model `after`, made of `before` to forget the records of `forget`; writes audits/ into `out`.

    `named`: before, after, base, before_adapter, after_adapter, forget, retain, holdout, as `relearn evaluate` takes
    them. `control`: a model that never saw the facts; `base` when None. Only models named here are loaded, whatever
    folders name themselves. Raises InputError for what cannot be read, and for a folder that holds something else.
    """
    audits = select_audits(attacks)
    _ask_for_bases(named)
    if named.get("before") is None:
        raise InputError(
            "an audit compares two models",
            where="--before",
            way_out="name the model that knew the facts: --before MODEL --after MODEL",
        )
    settings = from_options(**named, changes=changes)
    third = _control(control, settings)
    for option, spec in (
        ("--before", settings.before),
        ("--after", settings.after),
        ("--base", settings.base),
        ("--control", third),
    ):
        if spec is not None:
            refuse_hidden_base(spec, option)
    if third is not None:
        check_model(third, "--control")
    filled = read_templates(templates) if templates else {}
    folder = RunDir(out)
    held_to = None if third is None else {"model": third.model_dump(mode="json"), "sha256": fingerprint(third)}
    if is_ours(out) and folder.manifest.get("control", held_to) != held_to:
        raise InputError(
            "was audited against another control model, or it has changed",
            where=str(out),
            way_out="choose another --out",
        )
    with ExitStack() as held:
        refuse_overwrite(outputs_in(out), (control, templates))
        read = take(folder, settings, held)
        folder.update_manifest(control=held_to)
        recipe = Recipe.from_mapping(
            {
                "model": settings.after.model_dump(mode="json") if settings.after else "",
                "seed": settings.seed,
                "data": {"forget": settings.forget.path},
                "generate": settings.generate.model_dump(mode="json"),
                "metrics": settings.metrics.model_dump(mode="json"),
            }
        )
        records = read.records["forget"]
        asked = evenly(records, facts) if facts else records
        material = AuditInputs(
            asked,
            read.records.get("retain", ()),
            load_generic(),
            wordings(asked, out, recipe),
            recipe,
            out,
            filled,
            samples,
            settings.seed,
            read.records.get("holdout", ()),
        )
        found = AuditRun(material, PairModels(settings, third), audits).do()
        write_report(out)
    return found


def _control(control: str | None, settings: Evaluation) -> Model | None:
    if control is None:
        return settings.base
    assert settings.after is not None
    return settings.after.model_copy(update={"name": control, "adapter": None, "revision": None})


def _ask_for_bases(named: dict[str, Any]) -> None:
    """An adapter's own base model is loaded only when the caller names it."""
    for side in ("before", "after"):
        adapters = named.get(f"{side}_adapter") or ()
        if adapters and named.get(side) is None and named.get("before") is None:
            base = _named_base(Path(adapters[0]).expanduser())
            raise InputError(
                f"names the base model {base!r}, which is not loaded without asking"
                if base
                else "an adapter needs its model",
                where=f"--{side}-adapter {adapters[0]}",
                way_out=f"name the model yourself: --{side} {base or 'MODEL'}",
            )


def refuse_hidden_base(spec: Model, option: str) -> None:
    """A model folder that is an adapter as well would have the base model that it names loaded in its place."""
    folder = Path(spec.name).expanduser()
    if folder.is_dir() and (folder / "adapter_config.json").exists():
        base = _named_base(folder) or "MODEL"
        raise InputError(
            f"holds an adapter that names the base model {base!r}, which is not loaded without asking",
            where=f"{option} {spec.name}",
            way_out=f"{option} {base} {option}-adapter {spec.name}",
        )


def _named_base(adapter: Path) -> str | None:
    file = adapter / "adapter_config.json"
    if not file.exists():
        return None
    try:
        found = read_json(file)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError("cannot be read", where=str(file)) from None
    base = found.get("base_model_name_or_path") if isinstance(found, dict) else None
    return base if isinstance(base, str) else None
