"""Read rows and records from files and folders (JSON Lines, JSON, CSV, TSV, Parquet) and from Hugging Face data sets.

`read_rows` returns the raw rows with the place of each ("facts.jsonl:12"); `read_records` converts them to records. A
`.json` file contains one list, one object, or one object per line. `BENCHMARKS` lists the public benchmarks whose files
can be read without conversion; the files are not part of relearn. docs/benchmarks.md explains how each is measured.
"""

from __future__ import annotations

import csv
import heapq
import json
import random
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from relearn.core.config import DataSource
from relearn.core.errors import InputError
from relearn.core.files import files_below
from relearn.data.columns import RawRow, find_layout, notes_on_turns, to_records
from relearn.data.record import Record, Split

_SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
# Characters of the rows in a sample of a large source; bytes of a .json file, which is read at once.
SAMPLE_CHARACTERS = 64_000_000
LARGEST_JSON = 512_000_000
_DATA_SET_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_records(
    source: DataSource, split: Split, notes: list[str] | None = None, *, sample: bool = False
) -> list[tuple[str, Record]]:
    """Read the records of a source: a list of (place, record), in the order of the file.

    With `sample`, a random sample is read of rows with more than SAMPLE_CHARACTERS characters, the same on every call.
    Messages on what was left out are appended to `notes`. Raises InputError for a source that cannot be read, has no
    rows, or whose columns or cells do not fit.
    """
    notes = [] if notes is None else notes
    placed = _rows(source)
    if not source.subjects:
        placed = islice(placed, source.limit)
    rows = _sample(placed, source.path, notes) if sample else list(placed)
    if not rows:
        raise InputError("no rows", where=source.path, way_out="give at least one")
    columns = list(dict.fromkeys(str(column) for _, row in rows for column in row))
    layout = find_layout(columns, source.map, source.path)
    notes += (f"{source.path}: {note}" for note in notes_on_turns(rows, layout))
    records = [record for row in rows for record in to_records(row, layout, split, source.chunk_words)]
    return _with_subject(records, source) if source.subjects else records


def _sample(rows: Iterable[RawRow], path: str, notes: list[str]) -> list[RawRow]:
    """Draw rows of at most SAMPLE_CHARACTERS characters, in order, in memory for no more than those.

    Every row gets a random number; the rows with the largest ones are dropped as soon as the others are too long.
    """
    rng = random.Random(0)
    kept: list[tuple[float, int, int, RawRow]] = []  # (minus the random number, index, characters, row): a heap
    total = seen = 0
    for seen, row in enumerate(rows, start=1):
        size = len(row[0]) + sum(len(cell) if isinstance(cell, str) else len(repr(cell)) for cell in row[1].values())
        heapq.heappush(kept, (-rng.random(), seen, size, row))
        total += size
        while total > SAMPLE_CHARACTERS and len(kept) > 1:
            total -= heapq.heappop(kept)[2]
    if len(kept) < seen:
        share = f"a random sample of {len(kept):,} of {seen:,} rows"
        notes.append(f"{path} is large: {share} is used, the same in every run; `limit` takes the first rows instead")
    return [row for _, _, _, row in sorted(kept, key=itemgetter(1))]


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
    return list(_rows(source))


def _rows(source: DataSource | Path | str) -> Iterator[RawRow]:
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


def files_in_folder(folder: Path) -> dict[str, Path]:
    """List the files that `read_rows` reads for a folder, by name."""
    if any((folder / file).exists() for file in _SAVED):
        return files_below(folder)
    return {file.name: file for file in _data_files(folder)}


def _is_hub_name(name: str) -> bool:
    """Return whether a path is the name of a data set on the hub: "owner/name" without a local folder "owner".

    The folder is checked so that a mistyped file name is not requested from the hub.
    """
    path = Path(name)
    return bool(_DATA_SET_NAME.fullmatch(name)) and not path.parent.exists() and path.suffix.lower() not in _READERS


def _folder(path: Path) -> Iterator[RawRow]:
    files = _data_files(path)
    if not files:
        raise InputError("a folder without data files", where=str(path), way_out=f"it may hold {', '.join(_READERS)}")
    return (row for file in files for row in _file(file))


def _data_files(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_file() and entry.suffix.lower() in _READERS)


def _file(path: Path) -> Iterator[RawRow]:
    if not path.exists():
        raise InputError("no such file", where=str(path), way_out="paths are relative to where the command is run")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        problem = f"cannot read {path.suffix or 'a file without an ending'}"
        raise InputError(problem, where=str(path), way_out=f"give {', '.join(_READERS)}")
    try:
        yield from reader(path)
    except UnicodeDecodeError:
        raise InputError("not UTF-8", where=_not_utf8(path), way_out="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(path)) from None


def _not_utf8(path: Path) -> str:
    """Return the place of the first line of a file that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"{path}:{number}"
    return str(path)


class _TwiceError(Exception):
    """Raised for an object with one key twice, of which Python's parser would keep the last value."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(f"has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return row


def _json_lines(path: Path) -> Iterator[RawRow]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}:{number}"
                try:
                    value = json.loads(line, object_pairs_hook=_unique_keys)
                except _TwiceError as error:
                    raise InputError(str(error), where=where, way_out="leave one of them") from None
                except (ValueError, RecursionError) as error:
                    raise InputError(f"not JSON: {_short(error)}", where=where, way_out="one object per line") from None
                yield _as_row(value, where)


def _json_any(path: Path) -> Iterator[RawRow]:
    """Read one list, one object, or one object per line."""
    if path.stat().st_size > LARGEST_JSON:
        way_out = "write one object per line into a .jsonl file, which is read line by line"
        raise InputError(f"has more than {LARGEST_JSON:,} bytes", where=str(path), way_out=way_out)
    text = path.read_text(encoding="utf-8-sig")
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except _TwiceError as error:
        raise InputError(str(error), where=str(path), way_out="leave one of them") from None
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            line = getattr(error, "lineno", 1)
            raise InputError(f"not JSON: {_short(error)}", where=f"{path}:{line}") from None
        return _json_lines(path)
    if isinstance(value, dict):
        return iter([_as_row(value, f"{path}:1")])
    if not isinstance(value, list):
        raise InputError(f"holds a {type(value).__name__}", where=str(path), way_out="a list of objects")
    places = _places(path, _lines_of_list(text))
    return (_as_row(entry, place) for entry, place in zip(value, places, strict=True))


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


def _csv(path: Path) -> Iterator[RawRow]:
    """Read comma-, semicolon- or tab-separated rows; the header decides which."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(file.readline())
        file.seek(0)
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise InputError("two columns of the same name", where=f"{path}:1", way_out="rename one")
            start = reader.line_num + 1
            for cells in reader:
                where = f"{path}:{start}"
                start = reader.line_num + 1
                if len(cells) > len(header):
                    name = _DELIMITERS[delimiter]
                    raise InputError("more cells than columns", where=where, way_out=f"quote cells that hold {name}")
                if cells:
                    yield where, dict(zip_longest(header, cells))
        except csv.Error as error:
            raise InputError(f"not CSV: {error}", where=f"{path}:{reader.line_num}") from None


_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _delimiter(header: str) -> str:
    """Return the delimiter that splits the header of a CSV file into most columns; a comma where two are equal."""

    def columns(delimiter: str) -> int:
        try:
            return len(next(csv.reader([header], strict=True, delimiter=delimiter), []))
        except csv.Error:
            return 0

    return max(_DELIMITERS, key=columns)


def _parquet(path: Path) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from _numbered(rows, str(path))
    except pyarrow.ArrowException as error:
        raise InputError(f"not Parquet: {_short(error)}", where=str(path)) from None


def _saved_data_set(path: Path, source: DataSource) -> Iterator[RawRow]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"not a saved data set: {_short(error)}", where=str(path)) from None
    return _one_split(loaded, source)


def _hub_data_set(source: DataSource) -> Iterator[RawRow]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        loaded = datasets.load_dataset(source.path, source.name)
    except (OSError, ValueError, RuntimeError, ImportError, DatasetsError) as error:
        problem = f"no such file or folder, and no data set of this name could be loaded ({_short(error)})"
        raise InputError(problem, where=source.path, way_out="check the spelling, or give a file") from None
    return _one_split(loaded, source)


def _one_split(loaded: Any, source: DataSource) -> Iterator[RawRow]:
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


def _numbered(rows: Iterable[dict[str, Any]], where: str) -> Iterator[RawRow]:
    return ((f"{where} row {number}", row) for number, row in enumerate(rows, start=1))


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


_READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".json": _json_any,
    ".csv": _csv,
    ".tsv": _csv,
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
