"""The text a tuned lens is fitted on: the generic rows that come with the project, or a file of the user's own."""

from __future__ import annotations

from pathlib import Path

from relearn.core.config import Source
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.data.columns import Layout, to_records
from relearn.data.loaders import read_records
from relearn.engine.forward import TokenRow
from relearn.models.chat import ChatFormat
from relearn.synthesis.generic_data import load_generic
from relearn.unlearning.data.encode import encode, record_example

# One row of six is kept to stop by and one to measure on.
LEAST_ROWS = 12
_PLAIN = (".txt", ".md", ".text")


def lens_rows(chat: ChatFormat, path: Path | None = None) -> list[TokenRow]:
    """The built-in generic rows, or those of `path`: plain text, or any file that records are read from.

    Raises InputError for a file that cannot be read, and for one with less than `LEAST_ROWS` rows.
    """
    records = load_generic() if path is None else _read(path)
    if len(records) < LEAST_ROWS:
        raise InputError(
            f"{len(records)} rows are too few to fit a lens on", where=f"--lens-text {path}",
            way_out=f"give {LEAST_ROWS} or more, or plain text of {LEAST_ROWS * Source(path='').chunk_words} words",
        )  # fmt: skip
    return encode(chat, [record_example(record) for record in records])


def _read(path: Path) -> list[Record]:
    source = Source(path=str(path))
    if path.suffix.lower() not in _PLAIN:
        return [record for _, record in read_records(source, "generic")]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: byte {error.start}", where=str(path), way_out="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    pieces = to_records((str(path), {"text": text}), Layout(text="text"), "generic", source.chunk_words)
    return [record for _, record in pieces]
