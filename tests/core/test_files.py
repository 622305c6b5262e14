"""Files are written atomically and privately; readers tolerate incomplete lines."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from relearn.core import files
from relearn.core.errors import InputError
from relearn.core.files import append_jsonl, file_hash, read_json, read_jsonl, replaced_dir, write_json, write_text
from relearn.core.ownership import is_leftover


def test_files_are_private_and_whole(tmp_path):
    path = tmp_path / "run" / "summary.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["summary.json"]


def test_a_torn_last_line_is_left_out_and_never_swallows_the_next(tmp_path):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "text": "half')
    append_jsonl(path, {"n": 3})
    assert [row["n"] for row in read_jsonl(path, torn=True)] == [1, 3]
    with pytest.raises(InputError, match="not JSON lines"):
        read_jsonl(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_appears_only_when_complete(tmp_path):
    target = tmp_path / "adapter"
    with pytest.raises(RuntimeError), replaced_dir(target) as folder:
        write_text(folder / "a", "1")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    for text in ("first", "second"):
        with replaced_dir(target) as folder:
            (folder / "a").write_text(text)
    assert (target / "a").read_text() == "second"
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o600


def test_half_written_files_have_a_name_of_their_own(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(files.os, "replace", lambda old, new: seen.append(Path(old).name))
    write_text(tmp_path / "summary.json", "{}")
    with replaced_dir(tmp_path / "adapter") as folder:
        seen.append(folder.name)
    assert [name.split(".")[1] for name in seen] == ["summary", "adapter", "adapter"]
    assert all(is_leftover(name, ()) and name.endswith(".relearn-tmp") for name in seen)


def test_what_a_user_put_into_a_folder_that_is_replaced_stays(tmp_path):
    target = tmp_path / "adapter"
    for text in ("first", "second"):
        with replaced_dir(target) as folder:
            (folder / "adapter_config.json").write_text(text)
            if text == "first":
                (folder / "adapter_model-00001.safetensors").write_text(text)
        (target / "README.md").write_text("mine")
    assert (target / "README.md").read_text() == "mine" and (target / "adapter_config.json").read_text() == "second"
    assert not (target / "adapter_model-00001.safetensors").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("what", ["link", "dangling link", "file"])
def test_only_a_folder_is_replaced_by_one(tmp_path, what):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    target = tmp_path / "adapter"
    target.write_text("mine") if what == "file" else target.symlink_to(mine if what == "link" else tmp_path / "nowhere")
    with pytest.raises(InputError, match="adapter: is no folder that can be replaced"), replaced_dir(target) as folder:
        (folder / "thesis.txt").write_text("new")
    assert (mine / "thesis.txt").read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["adapter", "mine"]


LARGE = b"0" * (1 << 20)


@pytest.fixture
def hashed(tmp_path, monkeypatch) -> list[Path]:
    """The files whose content is hashed, in order, with a cache of the test's own."""
    monkeypatch.setenv("RELEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    seen = []
    compute = files._computed_hash
    monkeypatch.setattr(files, "_computed_hash", lambda path: seen.append(path) or compute(path))
    return seen


def test_the_hash_of_a_large_file_is_kept_until_the_file_changes(tmp_path, hashed):
    path = tmp_path / "model.safetensors"
    path.write_bytes(LARGE)
    first = file_hash(path)
    assert file_hash(path) == first == hashlib.sha256(LARGE).hexdigest() and len(hashed) == 1
    times = path.stat()
    path.write_bytes(b"1" + LARGE[1:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_hash(path) != first and len(hashed) == 2, "size and time are as before"
    (tmp_path / "link").symlink_to(path)
    assert file_hash(tmp_path / "link") == file_hash(path) and len(hashed) == 2
    (entry,) = (tmp_path / "cache" / "hashes").iterdir()
    entry.write_text('{"half')
    assert file_hash(path) != first and len(hashed) == 3
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600


def test_small_files_and_fresh_files_are_hashed_each_time(tmp_path, hashed, monkeypatch):
    (tmp_path / "small").write_bytes(b"0")
    file_hash(tmp_path / "small")
    monkeypatch.setattr(files, "_SETTLED_NS", 1 << 62)
    (tmp_path / "fresh").write_bytes(LARGE)
    assert file_hash(tmp_path / "fresh") == file_hash(tmp_path / "fresh") and len(hashed) == 3
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, hashed, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    (tmp_path / "large").write_bytes(LARGE)
    assert file_hash(tmp_path / "large") == file_hash(tmp_path / "large") and len(hashed) == 2


def test_a_file_of_the_hub_is_named_after_its_hash(tmp_path, hashed):
    blob = tmp_path / "blobs" / ("a" * 64)
    blob.parent.mkdir()
    blob.write_bytes(LARGE)
    (tmp_path / "model.safetensors").symlink_to(blob)
    assert file_hash(tmp_path / "model.safetensors") == "a" * 64 and not hashed
