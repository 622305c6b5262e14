"""A GGUF round trip: the merged weights written to a real GGUF file, read back from it and asked again.

Q8_0 and Q4_0 are the formats in which small models are handed round (arXiv 2410.16454: 4 bits may bring back what was
unlearned). The file is written by the format's own Python package; its Q4_K writer exists in llama.cpp alone, so that
format is not measured. The file stands in the run folder while it is needed and is removed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from relearn import console
from relearn.audits.base import AUDITS, AskAgain, Audit
from relearn.audits.gguf_file import read_gguf, write_gguf
from relearn.audits.material import Material
from relearn.errors import InputError
from relearn.models.load import Loaded
from relearn.rundir import make_private_dir

KINDS = ("Q8_0", "Q4_0")


def _changes(fresh: Callable[[], Loaded], material: Material, ask: AskAgain) -> None:
    held = make_private_dir(material.folder / "audits")
    for kind in KINDS:
        loaded = fresh()
        with tempfile.TemporaryDirectory(dir=held, prefix="gguf_") as folder:
            file = Path(folder) / "model.gguf"
            try:
                write_gguf(loaded.model, file, kind)
            except InputError as error:
                console.note(f"gguf, {kind}: not measured: {error}")
                continue
            read_gguf(loaded.model, file)
        ask(kind, loaded)


AUDITS.add(
    "gguf",
    Audit(
        "gguf", "GGUF round trip", "precision", "arXiv 2410.16454",
        "merged weights written to a GGUF file in Q8_0 and Q4_0, and read back", changes=_changes,
    ),
)  # fmt: skip
