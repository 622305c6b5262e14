"""Files in a run folder are whole or absent, private, and stages know what is done."""

from __future__ import annotations

import stat

import pytest

from relearn.core.errors import InputError
from relearn.core.run_dir import RunDir, append_jsonl, read_json, read_jsonl, replaced_dir, write_json, write_text


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


def test_a_stage_is_done_only_with_its_outputs(tmp_path):
    run = RunDir(tmp_path)
    assert not run.is_done("scores")
    with pytest.raises(KeyboardInterrupt), run.stage("scores", ["summary.json"]):
        raise KeyboardInterrupt
    assert run.manifest["stages"]["scores"]["state"] == "running" and not run.is_done("scores")
    with pytest.raises(RuntimeError, match="ended without"), run.stage("scores", ["summary.json"]):
        pass
    with run.stage("scores", ["summary.json"]):
        write_json(run / "summary.json", {})
    assert run.is_done("scores")
    (run / "summary.json").unlink()
    assert not run.is_done("scores")


def test_leftovers_of_a_killed_process_are_cleared(tmp_path):
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / ".forget.jsonl.x1").write_text("half")
    (tmp_path / ".adapter.y2").mkdir()
    (tmp_path / "kept.json").write_text("{}")
    RunDir(tmp_path).clear_leftovers()
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["before", "kept.json"]
