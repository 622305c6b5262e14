"""`relearn audit`: the attacks on a run, or on any two models (--before MODEL --after MODEL --forget FILE) without one.

The folder is an evaluation's: what it was begun with is written down, another model or a changed file is refused, and
the same command goes on where it was.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from relearn import auditing
from relearn.audits.base import MODELS, ModelName
from relearn.audits.material import Material
from relearn.audits.models import scale_adapter
from relearn.audits.runner import AuditRun, chosen
from relearn.audits.verdicts import Verdict
from relearn.config import Model, Recipe
from relearn.errors import InputError
from relearn.evaluation.folder import take
from relearn.evaluation.models import check_model, fingerprint
from relearn.evaluation.settings import Evaluation, from_options
from relearn.inference.models import put_adapter
from relearn.models.load import Loaded, load
from relearn.records.sample import evenly
from relearn.report.build import write_report
from relearn.rundir import RunDir, is_ours, outputs_in, read_json, refuse_overwrite
from relearn.synthesis.generic_data import load_generic


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
    run: Path | str | None = None, attacks: str = "all", *, out: Path | str = Path("runs/audit"),
    control: Path | str | None = None, templates: Path | str | None = None, facts: int | None = None, samples: int = 8,
    changes: Sequence[str] = (), **named: Any,
) -> list[Verdict]:  # fmt: skip
    """Attack the run in folder `run`, or without one the models and records that are `named`; one verdict per fact.

    A run's audit is written into its folder (`auditing.audit`), one of two models into `out` (`audit_models`, which
    says what can be named). Raises InputError where both are given, and as these two do.
    """
    filled = None if templates is None else Path(templates)
    if run is None:
        return audit_models(
            Path(out), attacks, control=None if control is None else str(control), templates=filled, facts=facts,
            samples=samples, changes=changes, **named,
        )  # fmt: skip
    if given := sorted(name for name, value in {**named, "set": changes}.items() if value):
        option = {"columns": "map"}.get(given[0], given[0].replace("_", "-"))
        raise InputError(f"a run has its own models and records, and --{option} was given", where=str(run),
                         way_out="a run folder, or --before, --after and --forget")  # fmt: skip
    return auditing.audit(
        Path(run), attacks, control=None if control is None else Path(control), templates=filled, facts=facts,
        samples=samples,
    )  # fmt: skip


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
) -> list[Verdict]:
    """Attack the model `after`, made of `before` to forget the records of `forget`; writes audits/ into `out`.

    `named`: before, after, base, before_adapter, after_adapter, forget, retain, holdout, as `relearn evaluate` takes
    them. `control`: a model that never saw the facts; `base` when None. Only models named here are loaded, whatever
    folders name themselves. Raises InputError for what cannot be read, and for a folder that holds something else.
    """
    audits = chosen(attacks)
    _ask_for_bases(named)
    if named.get("before") is None:
        raise InputError("an audit compares two models", where="--before",
                         way_out="name the model that knew the facts: --before MODEL --after MODEL")  # fmt: skip
    settings = from_options(**named, changes=changes)
    third = _control(control, settings)
    for option, spec in (("--before", settings.before), ("--after", settings.after), ("--base", settings.base),
                         ("--control", third)):  # fmt: skip
        if spec is not None:
            refuse_hidden_base(spec, option)
    if third is not None:
        check_model(third, "--control")
    filled = auditing.read_templates(templates) if templates else {}
    folder = RunDir(out)
    held_to = None if third is None else {"model": third.model_dump(mode="json"), "sha256": fingerprint(third)}
    if is_ours(out) and folder.manifest.get("control", held_to) != held_to:
        raise InputError("was audited against another control model, or it has changed", where=str(out),
                         way_out="choose another --out")  # fmt: skip
    with ExitStack() as held:
        refuse_overwrite(outputs_in(out), (control, templates))
        read = take(folder, settings, held)
        folder.update_manifest(control=held_to)
        recipe = Recipe.from_mapping({
            "model": settings.after.model_dump(mode="json") if settings.after else "", "seed": settings.seed,
            "data": {"forget": settings.forget.path}, "generate": settings.generate.model_dump(mode="json"),
            "metrics": settings.metrics.model_dump(mode="json"),
        })  # fmt: skip
        records = read.records["forget"]
        asked = evenly(records, facts) if facts else records
        material = Material(
            asked, read.records.get("retain", ()), load_generic(), auditing.wordings(asked, out, recipe), recipe, out,
            filled, samples, settings.seed, read.records.get("holdout", ()),
        )  # fmt: skip
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
                f"names the base model {base!r}, which is not loaded without asking" if base
                else "an adapter needs its model", where=f"--{side}-adapter {adapters[0]}",
                way_out=f"name the model yourself: --{side} {base or 'MODEL'}",
            )  # fmt: skip


def refuse_hidden_base(spec: Model, option: str) -> None:
    """A model folder that is an adapter as well would have the base model that it names loaded in its place."""
    folder = Path(spec.name).expanduser()
    if folder.is_dir() and (folder / "adapter_config.json").exists():
        base = _named_base(folder) or "MODEL"
        raise InputError(
            f"holds an adapter that names the base model {base!r}, which is not loaded without asking",
            where=f"{option} {spec.name}", way_out=f"{option} {base} {option}-adapter {spec.name}",
        )  # fmt: skip


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
