"""`relearn audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from relearn.cli.app import app


@app.command
def audit(
    folder: Path | None = None, *, attacks: str = "all", control: str | None = None, templates: Path | None = None,
    facts: int | None = None, samples: int = 8, before: str | None = None, after: str | None = None,
    base: str | None = None, before_adapter: tuple[str, ...] = (), after_adapter: tuple[str, ...] = (),
    forget: str | None = None, retain: str | None = None, holdout: str | None = None,
    map_: Annotated[str, Parameter(name="--map")] = "",
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (), out: Path = Path("runs/audit"),
) -> None:  # fmt: skip
    """Attack a finished run, or any two models, and say of every fact whether it is gone, hidden or still there.

    An audit that was stopped goes on where it was; what was asked is not asked again.

    Parameters
    ----------
    folder
        A run folder; without one: --before, --after and --forget.
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
    before
        The model that knew the facts: smollm2-135m-instruct, a folder, or a name on the hub.
    after
        The model that should have forgotten them.
    base
        A model from before any fine-tuning; the control where no --control is given.
    before_adapter
        A LoRA adapter's folder for --before; may be repeated.
    after_adapter
        A LoRA adapter's folder for --after, or for --before where no --after is given; may be repeated.
    forget
        The facts that should be gone.
    retain
        Records that should still be known; attacks that need them are not measured without.
    holdout
        Records like the facts that no model was trained on, for membership inference.
    map_
        Which columns to read: question=text,answer=labels
    set_
        Change a setting of an audit without a run: generate.max_new_tokens=64, model.dtype=bfloat16
    out
        The folder of an audit without a run.
    """
    from relearn.core.console import note
    from relearn.evaluation.audit import audit as attack
    from relearn.workflows.audit import print_audit
    from relearn.workflows.evaluate.evaluation_config import read_columns

    found = attack(
        folder, attacks, out=out, control=control, templates=templates, facts=facts, samples=samples, changes=set_,
        columns=read_columns(map_), before=before, after=after, base=base, before_adapter=before_adapter,
        after_adapter=after_adapter, forget=forget, retain=retain, holdout=holdout,
    )  # fmt: skip
    folder = folder or out
    print_audit(folder, found)
    note(f"per fact: {folder / 'audits' / 'verdicts.json'}")
