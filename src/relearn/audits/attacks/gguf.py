"""A GGUF round trip: the merged weights written to a real GGUF file, read back from it and asked again.

Q8_0, Q4_0 and Q4_K_M are the formats in which small models are handed round (arXiv 2410.16454: 4 bits may bring back
what was unlearned). The first two are written by the format's own Python package; Q4_K_M by llama.cpp's tool alone,
from a file of unrounded weights, and is not measured where that is not installed. The files stand in the run folder
while they are needed and are removed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relearn.audits.attack import AUDITS, AskAgain, Audit
from relearn.audits.gguf_file import UNROUNDED, read_gguf, write_gguf
from relearn.audits.llama_cpp import quantise, tool
from relearn.audits.material import Material
from relearn.core import console
from relearn.core.errors import InputError
from relearn.core.run_dir import make_private_dir
from relearn.models.load import Loaded

KINDS = ("Q8_0", "Q4_0")
LLAMA_CPP_KINDS = ("Q4_K_M",)


def _changes(fresh: Callable[[], Loaded], material: Material, ask: AskAgain) -> None:
    held = make_private_dir(material.folder / "audits")
    for kind in _kinds():
        loaded = fresh()
        with tempfile.TemporaryDirectory(dir=held, prefix="gguf_") as folder:
            try:
                file = _written(loaded.model, Path(folder), kind)
            except InputError as error:
                console.note(f"gguf, {kind}: not measured: {error}")
                continue
            read_gguf(loaded.model, file)
        ask(kind, loaded)


def _kinds() -> tuple[str, ...]:
    """Without the tool no model is loaded for its formats, nor written unrounded: that may be many gigabytes."""
    try:
        tool()
    except InputError as error:
        console.note(f"gguf, {', '.join(LLAMA_CPP_KINDS)}: not measured: {error}")
        return KINDS
    return (*KINDS, *LLAMA_CPP_KINDS)


def _written(model: Any, folder: Path, kind: str) -> Path:
    file = folder / "model.gguf"
    if kind in KINDS:
        write_gguf(model, file, kind)
        return file
    whole = folder / "whole.gguf"
    write_gguf(model, whole, UNROUNDED[model.dtype])
    quantise(whole, file, kind)
    whole.unlink()
    return file


AUDITS.add(
    "gguf",
    Audit(
        "gguf", "GGUF round trip", "precision", "arXiv 2410.16454",
        "merged weights written to a GGUF file and read back: Q8_0, Q4_0, by llama.cpp Q4_K_M", changes=_changes,
    ),
)  # fmt: skip
