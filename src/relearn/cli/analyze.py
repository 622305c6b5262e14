"""`relearn analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from relearn.cli.app import app


@app.command
def analyze(
    folder: Path, *others: Path, prompt: tuple[str, ...] = (), facts: int = 12,
    lens: Literal["logit", "tuned"] = "logit", lens_text: Path | None = None,
) -> None:  # fmt: skip
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
    lens
        How layers are read: as they are, or through translators fitted to the start model on other text.
    lens_text
        The text a tuned lens is fitted on (plain text or rows), in place of the built-in generic rows.
    """
    from relearn.core.console import note
    from relearn.workflows.analyze import analyze as look

    note(f"analysis: {look(folder, others, prompts=prompt, facts=facts, lens=lens, lens_text=lens_text)}")
