"""`relearn ui`."""

from __future__ import annotations

from pathlib import Path

from relearn.cli.app import app


@app.command
def ui(folder: Path, *others: Path, port: int = 0, no_browser: bool = False) -> int:
    """Open a local page: ask runs before and after, look inside an answer, browse facts by verdict, compare numbers.

    It answers on 127.0.0.1 alone, to the address that is printed. No model is loaded before you press Load.

    Parameters
    ----------
    folder
        A run folder.
    others
        Further runs, each with an answer and numbers of its own.
    port
        The port; a free one when not given.
    no_browser
        Print the address and open nothing.
    """
    from relearn.ui.serve import serve

    try:
        serve([folder, *others], port, browser=not no_browser)
    except KeyboardInterrupt:
        return 130
    return 0
