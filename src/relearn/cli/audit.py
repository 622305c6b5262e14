"""`relearn audit`."""

from __future__ import annotations

from pathlib import Path

from relearn.cli.app import app


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
