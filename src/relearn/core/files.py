"""Write files and folders atomically, readable by the owner only; read JSON and JSON Lines.

Every file is written under a temporary name and then renamed. A process that is killed leaves either the old file or
the new file. Files are created with mode 0600 and folders with mode 0700, because they contain the texts that the model
should forget. In a distributed run only the main process writes; in all others these functions do nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from relearn.core import distributed
from relearn.core.errors import InputError, RelearnError, machine_error

TEMPORARY_SUFFIX = ".relearn-tmp"
_LONGEST_PATH, _LONGEST_NAME = 4000, 255  # bytes, as on Linux
# Characters that no path can have, or no UTF-8 file: NUL and surrogates, which stand for bytes that are not UTF-8.
NO_TEXT = re.compile("[\0\ud800-\udfff]")
_OTHER_OUT = "choose another --out"
# File names of a saved model, adapter, lens or classifier.
MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("offset.json", "eco.json", "fit.json", "score.json"),
)


def check_path(text: str) -> str:
    """Return `text` if it can name a file, a folder or a model. Raises ValueError with the reason if not."""
    if not text.strip():
        raise ValueError("empty: give a path or a name")
    if odd := NO_TEXT.search(text):
        raise ValueError(f"has the character U+{ord(odd[0]):04X}")
    if len(text.encode()) > _LONGEST_PATH or max(len(part.encode()) for part in text.split("/")) > _LONGEST_NAME:
        raise ValueError(f"too long for a path: {len(text):,} characters")
    return text


def check_output(path: Path, *, is_file: bool = False) -> None:
    """Raise InputError where a file or folder cannot be written at `path`."""
    for place in (path, *path.absolute().parents):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink():
                raise InputError("is a symbolic link to nothing", where=str(place), way_out=_OTHER_OUT) from None
            continue
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", where=str(path), way_out=_OTHER_OUT) from None
        if is_file and place == path:
            if stat.S_ISDIR(mode):
                raise InputError("is a folder, and a file is written", where=str(path), way_out=_OTHER_OUT)
            continue
        if not stat.S_ISDIR(mode):
            problem = "is a file, and a folder is needed" if place == path else f"cannot be made: {place} is a file"
            raise InputError(problem, where=str(path), way_out=_OTHER_OUT)
        if not os.access(place, os.W_OK | os.X_OK):
            raise InputError(f"cannot be written: no permission in {place}", where=str(path), way_out=_OTHER_OUT)
        return


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, readable by the owner only."""
    if not distributed.is_main():
        return
    make_private_dir(path.parent)
    with _writing(path):
        handle, temporary = tempfile.mkstemp(TEMPORARY_SUFFIX, f".{path.name}.", path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Convert an error of disk or permissions to one line that names `path` instead of a temporary file."""
    try:
        yield
    except Exception as error:
        known = None if isinstance(error, RelearnError) else machine_error(error, str(path))
        if known is None:
            raise
        raise known from None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line. Raises ValueError for NaN and infinity."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON object as a line.

    If a killed process left the last line incomplete, a line break is written first; `read_jsonl(torn=True)` skips the
    incomplete line.
    """
    if not distributed.is_main():
        return
    make_private_dir(path.parent)
    with _writing(path), os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb+") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises InputError where it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"not JSON: {error}", where=str(path)) from None


def read_jsonl(path: Path, *, torn: bool = False) -> list[dict[str, Any]]:
    """Read all rows of a JSON Lines file. Raises InputError for a line that is not JSON; with `torn` it is skipped."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            if not torn:
                raise InputError("not JSON lines", where=str(path)) from None
    return rows


def file_hash(path: Path) -> str:
    """Compute the sha256 of a file as hexadecimal digits.

    The hash of a large file, such as weights, is kept in the cache folder under the file's path, with the size, times
    and inode that it was computed for. A file from the hub is named after its hash.
    """
    real = path.resolve()
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return real.name
    status = real.stat()
    if status.st_size < _LARGE:
        return _computed_hash(real)
    entry = cache_dir() / "hashes" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()}.json"
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    if (digest := _kept_hash(entry, stamp)) is None:
        digest = _computed_hash(real)
        # A file that was just written could change again within the resolution of its times.
        if time.time_ns() - status.st_ctime_ns > _SETTLED_NS:
            with contextlib.suppress(OSError, InputError):
                write_json(entry, {"stamp": stamp, "sha256": digest})
    return digest


_SHA256 = re.compile("[0-9a-f]{64}")
_LARGE = 1 << 20
_SETTLED_NS = 2_000_000_000


def _computed_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_safetensors(path: Path) -> None:
    """Raise InputError unless a safetensors file is complete; its header is read, not its weights."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        header = file.read(length) if 8 + length <= size else b""
    if start == b"version ":
        way_out = "fetch them with git lfs pull, or download the model again"
        raise InputError("is a git-LFS pointer, not the weights", where=str(path), way_out=way_out)
    try:
        tensors = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
        complete = 8 + length + max(ends, default=0) == size
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        complete = False
    if not complete:
        raise InputError(
            f"is damaged or cut off ({size:,} bytes)", where=str(path), way_out="download or copy it again"
        )


def _kept_hash(entry: Path, stamp: list[int]) -> str | None:
    try:
        kept = json.loads(entry.read_text(encoding="utf-8"))
        return kept["sha256"] if kept["stamp"] == stamp and _SHA256.fullmatch(kept["sha256"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def files_hash(files: Mapping[str, Path]) -> str:
    """Compute one sha256 over files: of the lines `sha256  name`, in the order of the mapping."""
    lines = (f"{file_hash(path)}  {name}\n" for name, path in files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def files_below(folder: Path) -> dict[str, Path]:
    """List all files below a folder by relative path, sorted."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.as_posix())
    return {path.relative_to(folder).as_posix(): path for path in files}


def cache_dir() -> Path:
    """Return the cache folder: RELEARN_CACHE, else XDG_CACHE_HOME/relearn, else ~/.cache/relearn."""
    if own := os.environ.get("RELEARN_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relearn"


def curve_path(key: str) -> Path:
    """Return the file in the cache folder with the answers of a fine-tuned control model; `key`: a sha256."""
    return cache_dir() / "relearning" / f"{key}.jsonl"


def make_private_dir(path: Path) -> Path:
    """Create a folder and its parents with mode 0700, unless it exists. Raises InputError where that is impossible."""
    with _writing(path):
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"cannot be made: {error.strerror}", where=str(path), way_out=_OTHER_OUT) from None
    return path


def make_tree_private(path: Path) -> None:
    """Set mode 0700 on a folder and its subfolders, 0600 on their files."""
    for entry in [path, *path.rglob("*")]:
        entry.chmod(0o700 if entry.is_dir() else 0o600)


@contextmanager
def replaced_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to; move it to `path` when the block ends without an error.

    In an existing folder `path`, model files (MODEL_FILES) and files of the same names are removed first; all other
    files are kept. Raises InputError where `path` is a file or a symbolic link.
    """
    if not distributed.is_main():
        with tempfile.TemporaryDirectory() as discarded:
            yield Path(discarded)
        return
    make_private_dir(path.parent)
    with _writing(path):
        temporary = Path(tempfile.mkdtemp(TEMPORARY_SUFFIX, f".{path.name}.", path.parent))
        try:
            yield temporary
            make_tree_private(temporary)
            _move_into_place(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _move_into_place(temporary: Path, path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError("is no folder that can be replaced", where=str(path), way_out="move it away")
    if path.exists():
        for entry in list(path.iterdir()):
            if (temporary / entry.name).exists() or any(fnmatchcase(entry.name, pattern) for pattern in MODEL_FILES):
                remove_entry(entry)
    if not path.exists() or not any(path.iterdir()):
        os.replace(temporary, path)
        return
    for entry in list(temporary.iterdir()):
        os.replace(entry, path / entry.name)
    temporary.rmdir()


def remove_tree(path: Path) -> None:
    """Remove a folder, if it exists, after all processes have called this function."""
    distributed.barrier()
    if distributed.is_main():
        shutil.rmtree(path, ignore_errors=True)


def remove_entry(entry: Path) -> None:
    """Remove a file, a link (not its target), or a folder with its contents."""
    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)
