"""Read rows and records from files and folders (JSON Lines, JSON, CSV, Parquet) and from Hugging Face data sets.

`read_rows` returns the raw rows with the place of each ("facts.jsonl:12"); `read_records` converts them to records. A
`.json` file contains one list, one object, or one object per line. `BENCHMARKS` lists the public benchmarks whose files
can be read without conversion; the files are not part of relearn. docs/benchmarks.md explains how each is measured.
"""

from __future__ import annotations

import csv
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from relearn.core.config import DataSource
from relearn.core.errors import InputError
from relearn.data.columns import RawRow, find_layout, to_records
from relearn.data.record import Record, Split

_SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
_DATA_SET_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_records(source: DataSource, split: Split) -> list[tuple[str, Record]]:
    """Read the records of a source: a list of (place, record), in the order of the file.

    Raises InputError for a source that cannot be read, has no rows, or whose columns or cells do not fit.
    """
    rows = read_rows(source)
    if not source.subjects:
        rows = rows[: source.limit]
    if not rows:
        raise InputError("no rows", where=source.path, way_out="give at least one")
    columns = list(dict.fromkeys(str(column) for _, row in rows for column in row))
    layout = find_layout(columns, source.map, source.path)
    records = [placed for row in rows for placed in to_records(row, layout, split, source.chunk_words)]
    return _with_subject(records, source) if source.subjects else records


def _with_subject(records: list[tuple[str, Record]], source: DataSource) -> list[tuple[str, Record]]:
    """Keep the records whose question contains one of the source's subjects, ignoring case and kind of apostrophe."""
    names = "|".join(re.escape(_subject_form(name)) for name in source.subjects)
    subject = re.compile(rf"(?<!\w)(?:{names})(?!\w)")
    matching = [entry for entry in records if subject.search(_subject_form(entry[1].question))][: source.limit]
    if not matching:
        way_out = "spell them as the questions do"
        raise InputError("no question has one of the subjects in it", where=source.path, way_out=way_out)
    return matching


def _subject_form(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("’", "'")


def read_rows(source: DataSource | Path | str) -> list[RawRow]:
    """Read all rows of a file, a folder or a data set: a list of (place, column -> cell).

    Raises InputError for a source that cannot be read.
    """
    if not isinstance(source, DataSource):
        source = DataSource.model_validate({"path": str(source)})
    path = Path(source.path).expanduser()
    if path.is_dir() and any((path / name).exists() for name in _SAVED):
        return _saved_data_set(path, source)
    if _is_hub_name(source.path):
        return _hub_data_set(source)
    if source.name or source.split:
        problem = "'name' and 'split' are for data sets, this is a plain file or folder"
        raise InputError(problem, where=source.path, way_out="take them out")
    if path.is_dir():
        return _folder(path)
    return _file(path)


def _is_hub_name(name: str) -> bool:
    """Return whether a path is the name of a data set on the hub: "owner/name" without a local folder "owner".

    The folder is checked so that a mistyped file name is not requested from the hub.
    """
    path = Path(name)
    return bool(_DATA_SET_NAME.fullmatch(name)) and not path.parent.exists() and path.suffix.lower() not in _READERS


def _folder(path: Path) -> list[RawRow]:
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and entry.suffix.lower() in _READERS)
    if not files:
        raise InputError("a folder without data files", where=str(path), way_out=f"it may hold {', '.join(_READERS)}")
    return [row for file in files for row in _file(file)]


def _file(path: Path) -> list[RawRow]:
    if not path.exists():
        raise InputError("no such file", where=str(path), way_out="paths are relative to where the command is run")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        problem = f"cannot read {path.suffix or 'a file without an ending'}"
        raise InputError(problem, where=str(path), way_out=f"give {', '.join(_READERS)}")
    try:
        return reader(path)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: byte {error.start}", where=str(path), way_out="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(path)) from None


def _json_lines(path: Path) -> list[RawRow]:
    rows = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON: {_short(error)}", where=where, way_out="one object per line") from None
        rows.append(_as_row(value, where))
    return rows


def _json_any(path: Path) -> list[RawRow]:
    """Read one list, one object, or one object per line."""
    text = _read(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            line = getattr(error, "lineno", 1)
            raise InputError(f"not JSON: {_short(error)}", where=f"{path}:{line}") from None
        return _json_lines(path)
    if isinstance(value, dict):
        return [_as_row(value, f"{path}:1")]
    if not isinstance(value, list):
        raise InputError(f"holds a {type(value).__name__}", where=str(path), way_out="a list of objects")
    return [_as_row(entry, place) for entry, place in zip(value, _places(path, _lines_of_list(text)), strict=True)]


def _places(path: Path, lines: list[int]) -> list[str]:
    """Return the place of each entry: its line, and its row number where a line contains several entries."""
    ambiguous = len(set(lines)) < len(lines)
    return [f"{path}:{line}" + (f" row {row}" if ambiguous else "") for row, line in enumerate(lines, start=1)]


def _lines_of_list(text: str) -> list[int]:
    """Return the line on which each entry of a JSON list starts. `text` is valid JSON."""
    decode, gap = json.JSONDecoder().raw_decode, re.compile(r"[\s,]*")
    position, lines = text.index("[") + 1, []
    line = 1 + text.count("\n", 0, position)
    while True:
        start = gap.match(text, position).end()  # type: ignore[union-attr]
        line += text.count("\n", position, start)
        if text[start] == "]":
            return lines
        lines.append(line)
        _, position = decode(text, start)
        line += text.count("\n", start, position)


def _as_row(value: Any, where: str) -> RawRow:
    if not isinstance(value, dict):
        raise InputError(f"a row is an object of fields, this is a {type(value).__name__}", where=where)
    return where, value


def _csv(path: Path) -> list[RawRow]:
    csv.field_size_limit(sys.maxsize)
    rows: list[RawRow] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise InputError("two columns of the same name", where=f"{path}:1", way_out="rename one")
            start = reader.line_num + 1
            for cells in reader:
                where = f"{path}:{start}"
                start = reader.line_num + 1
                if len(cells) > len(header):
                    raise InputError("more cells than columns", where=where, way_out="quote cells that hold commas")
                if cells:
                    rows.append((where, dict(zip_longest(header, cells))))
        except csv.Error as error:
            raise InputError(f"not CSV: {error}", where=f"{path}:{reader.line_num}") from None
    return rows


def _parquet(path: Path) -> list[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise InputError(f"not Parquet: {_short(error)}", where=str(path)) from None
    return _numbered(table.to_pylist(), str(path))


def _saved_data_set(path: Path, source: DataSource) -> list[RawRow]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"not a saved data set: {_short(error)}", where=str(path)) from None
    return _one_split(loaded, source)


def _hub_data_set(source: DataSource) -> list[RawRow]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        loaded = datasets.load_dataset(source.path, source.name)
    except (OSError, ValueError, RuntimeError, ImportError, DatasetsError) as error:
        problem = f"no such file or folder, and no data set of this name could be loaded ({_short(error)})"
        raise InputError(problem, where=source.path, way_out="check the spelling, or give a file") from None
    return _one_split(loaded, source)


def _one_split(loaded: Any, source: DataSource) -> list[RawRow]:
    if not isinstance(loaded, dict):
        if source.split:
            raise InputError(f"has no splits, {source.split!r} was asked for", where=source.path)
        return _numbered(loaded, source.path)
    if source.split is None and len(loaded) > 1:
        raise InputError(f"has the splits {', '.join(loaded)}", where=source.path, way_out="say which: split: NAME")
    split = source.split or next(iter(loaded))
    if split not in loaded:
        raise InputError(f"no split {split!r}", where=source.path, way_out=f"it has {', '.join(loaded)}")
    return _numbered(loaded[split], f"{source.path}[{split}]")


def _numbered(rows: Iterable[dict[str, Any]], where: str) -> list[RawRow]:
    return [(f"{where} row {number}", row) for number, row in enumerate(rows, start=1)]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


_READERS: dict[str, Callable[[Path], list[RawRow]]] = {
    ".jsonl": _json_lines,
    ".json": _json_any,
    ".csv": _csv,
    ".parquet": _parquet,
}


@dataclass(frozen=True)
class Benchmark:
    """Describe a public benchmark whose files can be read without conversion.

    `what`: description of its questions. `columns`: columns of the file, question and answer first; one for documents.
    `recipe`: a recipe in recipes/, or the recipe key that takes the file.
    """

    name: str
    what: str
    columns: tuple[str, ...]
    recipe: str


_LIST = resources.files("relearn.data").joinpath("benchmarks.yaml").read_text(encoding="utf-8")
BENCHMARKS = tuple(Benchmark(**entry | {"columns": tuple(entry["columns"])}) for entry in yaml.safe_load(_LIST))
