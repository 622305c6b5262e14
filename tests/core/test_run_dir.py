"""A run folder knows its files, and which stages are done."""

from __future__ import annotations

import pytest

from relearn.core import run_dir
from relearn.core.errors import InputError
from relearn.core.files import read_json, write_json, write_jsonl, write_text
from relearn.core.run_dir import RunFolder
from relearn.core.splits import REPORTED_SPLITS, SPLITS


def test_a_stage_is_done_only_with_its_outputs(tmp_path):
    run = RunFolder(tmp_path)
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


def test_every_manifest_is_marked(tmp_path):
    write_json(tmp_path / "manifest.json", {"stages": {"before": {"state": "done"}}})
    RunFolder(tmp_path).update_manifest(seed=1)
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest == {"stages": {"before": {"state": "done"}}, "seed": 1, **run_dir.MARKER}
    assert run_dir.MARKER["relearn"]["format"] == 1


def test_missing_files_read_as_empty_and_a_missing_run_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.summary == folder.scores == folder.wordings == folder.audit_summary == {}
    assert folder.answers("before", "forget") == folder.synthesis_rows == folder.log_rows == folder.verdicts == []
    assert folder.manifest == {"stages": {}} and not folder.has_recipe and not folder.is_evaluation
    with pytest.raises(InputError, match="no run there -> give a run folder"):
        _ = folder.recipe
    with pytest.raises(InputError, match="no run there"):
        RunFolder.existing(tmp_path)
    with pytest.raises(InputError, match=r"after/forget.jsonl: this run is not finished, or was purged"):
        folder.require_answers("after")
    with pytest.raises(InputError, match="has not unlearned yet"):
        folder.require_result("adapter", "model")


def test_what_a_run_folder_holds_is_read_by_name(tmp_path):
    folder = RunFolder(tmp_path)
    write_text(folder / run_dir.RECIPE, "model: m\ndata: {forget: f.jsonl}\n")
    write_jsonl(folder.answers_path("before", "forget"), [{"id": "a"}])
    write_jsonl(folder / run_dir.WORDINGS, [{"record_id": "a", "questions": ["Where?"]}])
    write_json(tmp_path / "audits" / "verdicts.json", [{"id": "a", "verdict": "gone"}])
    write_json(tmp_path / "analysis" / "lens.json", {"lens": "logit"})
    folder.log(stage="learn", loss=1.0)
    (tmp_path / "log.jsonl").open("a").write('{"half')
    (tmp_path / "adapter").mkdir()
    assert folder.recipe.model.name == "m" and folder.has_recipe
    assert folder.answers("before", "forget") == [{"id": "a"}] and folder.wordings == {"a": ["Where?"]}
    assert folder.verdicts[0]["verdict"] == "gone" and folder.analysis("lens") == {"lens": "logit"}
    assert [row["stage"] for row in folder.log_rows] == ["learn"]
    assert folder.require_result("model", "adapter") == "adapter"
    folder.require_answers("before")


def test_the_table_of_splits():
    assert [split.key for split in SPLITS.values()] == [
        "forget",
        "retain",
        "forget_wordings",
        "forget_heldout",
        "retain_heldout",
        "holdout",
        "real_authors",
        "world_facts",
    ]
    assert [name for name, split in SPLITS.items() if split.trained] == ["forget", "retain"]
    assert list(REPORTED_SPLITS)[:4] == ["forget", "forget_wordings", "forget_heldout", "retain"]
    assert "holdout" not in REPORTED_SPLITS and SPLITS["wordings"].answer_file == "wordings.jsonl"
