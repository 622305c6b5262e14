"""Taking hold of an evaluation's folder: all that can be wrong is looked at first, then the beginning is noted."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from relearn.ability import check_ability
from relearn.config import Model
from relearn.errors import InputError
from relearn.evaluation.material import Material, read_material
from relearn.evaluation.models import fingerprint
from relearn.evaluation.settings import FILE, WORDINGS, Evaluation, differing, part_of
from relearn.metrics.base import METRICS, JointMetric
from relearn.metrics.grading import check_remote_judge
from relearn.metrics.judges import EXTRACTORS
from relearn.metrics.retain_reference import load_reference
from relearn.provenance import versions
from relearn.rundir import (
    RunDir,
    check_links,
    file_hash,
    is_new,
    is_ours,
    locked,
    make_private_dir,
    outputs_in,
    refuse_overwrite,
    write_text,
)
from relearn.synthesis.plan import WITH_ANSWERS, check_remote


def take(folder: RunDir, settings: Evaluation, held: ExitStack) -> Material:
    """Check everything, take hold of the folder, and write down what the evaluation begins with."""
    _check_folder(folder, settings)
    material = read_material(settings)
    _check_metrics(settings, material)
    _check_judges(settings, sum(material.counts.values()))
    _check_wordings(settings, material)
    inputs = {
        source.path: file_hash(path)
        for source in settings.sets.values()
        if (path := Path(source.path).expanduser()).is_file()
    }
    models = {role: fingerprint(spec) for role, spec in _roles(settings).items()}
    _check_unchanged(folder.manifest, inputs, models)
    make_private_dir(folder.path)
    held.enter_context(locked(folder))
    folder.clear_leftovers()
    # Marked first: what a process leaves that is killed here must be known as its own.
    folder.update_manifest()
    write_text(folder / FILE, settings.to_yaml())
    folder.update_manifest(
        versions=versions(), seed=settings.seed, inputs=inputs, models=models, counts=material.counts,
        notes=[*material.notes, *_notes(settings)],
    )  # fmt: skip
    return material


def _roles(settings: Evaluation) -> dict[str, Model]:
    return settings.models | ({"base": settings.base} if settings.base else {})


def _check_folder(folder: RunDir, settings: Evaluation) -> None:
    kept = folder / FILE
    if is_new(folder.path):
        return
    begun = is_new(folder.path, FILE) and kept.read_bytes() == settings.to_yaml().encode()
    if not kept.is_file() or not (begun or is_ours(folder.path)):
        raise InputError("is there already and holds no evaluation", where=str(folder.path),
                         way_out="choose another --out")  # fmt: skip
    check_links(folder.path)
    refuse_overwrite(outputs_in(folder.path), _read_paths(settings))
    why = differing(Evaluation.from_yaml(kept), settings)
    if why:
        raise InputError(f"holds another evaluation: {why}", where=str(folder.path),
                         way_out="choose another --out, or remove it")  # fmt: skip


def _read_paths(settings: Evaluation) -> list[str]:
    """Everything an evaluation reads: data and models, by the names they were given."""
    models = [name for spec in _roles(settings).values() for name in (spec.name, *spec.adapters)]
    judged = filter(None, (settings.metrics.retain_reference, *settings.metrics.ability.tasks))
    return [*models, *(source.path for source in settings.sets.values()), *judged]


def _check_unchanged(manifest: dict[str, Any], inputs: dict[str, str], models: dict[str, str | None]) -> None:
    for name, found, place in (("inputs", inputs, str), ("models", models, "the model {}".format)):
        for key, digest in manifest.get(name, {}).items():
            if key in found and digest != found[key]:
                raise InputError("has changed since this evaluation began", where=place(key),
                                 way_out="restore it, or start anew with another --out")  # fmt: skip


def _check_judges(settings: Evaluation, rows: int) -> None:
    """A judge that cannot be, or that must not be shown the answers, is refused before anything is asked."""
    metrics = settings.metrics
    check_remote_judge(metrics)
    check_ability(metrics.ability)
    if metrics.ability.tasks and not settings.models:
        raise InputError("asks a model, and there are files of answers alone", where="metrics.ability",
                         way_out="give --after MODEL")  # fmt: skip
    if settings.asks_generator:
        if metrics.entities not in EXTRACTORS:
            raise InputError(f"no entity extractor {metrics.entities!r}", where="metrics.entities",
                             way_out=f"one of {', '.join(EXTRACTORS)}")  # fmt: skip
        check_remote(settings.synthesis, rows, WITH_ANSWERS)
    if metrics.retain_reference:
        load_reference(metrics.retain_reference)


def _check_wordings(settings: Evaluation, material: Material) -> None:
    """Raises InputError where questions may not go to the generator that words them anew, or would not be worded."""
    if settings.asks_for_wordings:
        check_remote(settings.synthesis, material.counts["forget"])
    elif "worst_case" in settings.measure and not settings.metrics.worst_case and WORDINGS not in material.sets:
        raise InputError(
            "'worst_case' rests on other wordings of the questions, and there are none", where="--metrics",
            way_out="--set metrics.worst_case=5" if settings.models else "rows with a `wording` (docs/evaluate.md)",
        )  # fmt: skip


def _check_metrics(settings: Evaluation, material: Material) -> None:
    splits = {part_of(name)[1] for name in material.sets}
    for name in settings.measure:
        metric = METRICS.get(name)
        if not isinstance(metric, JointMetric) and not splits & set(metric.better):
            raise InputError(f"{name!r} is measured on the {' or '.join(metric.better)} set, and there is none",
                             where="--metrics", way_out=f"give --{next(iter(metric.better))} FILE")  # fmt: skip


def _notes(settings: Evaluation) -> list[str]:
    if not settings.models or settings.base:
        return []
    if settings.before is None:
        return ["PPL and LS are unscored: they need a model from before any fine-tuning (--base MODEL)"]
    without = " without its adapter" if settings.before.adapters else ""
    return [f"PPL and LS rest on the model before{without}: no model from before any fine-tuning was given (--base)"]
