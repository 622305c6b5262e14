"""`relearn analyze`."""

from __future__ import annotations

from pathlib import Path

from relearn.cli.app import app


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
