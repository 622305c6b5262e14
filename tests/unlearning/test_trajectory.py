"""The trajectory a training writes: the same after an interruption, nothing when it is off, few forwards."""

from __future__ import annotations

import json

import pytest
import torch

import relearn
from people import people
from relearn.core.files import read_jsonl
from relearn.core.ownership import purge
from relearn.unlearning import callbacks
from relearn.unlearning.callbacks import Trajectory
from unlearning.toy import FORGET, RETAIN, farthest, fresh, plan, trained

ROWS = {"forget": FORGET[:4], "retain": RETAIN[:4]}


def test_a_resumed_training_writes_the_same_bytes(tiny_model_dir, tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    kept, _ = trained(fresh(tiny_model_dir), plan(), tmp_path / "a", callbacks=[Trajectory(ROWS, 2, whole)])

    class Stop(Exception):
        pass

    class Killed(Trajectory):
        """Dies after it has written step 4, behind the checkpoint of step 3."""

        def on_step_end(self, args, state, control, model=None, **kwargs):
            super().on_step_end(args, state, control, model=model, **kwargs)
            if state.global_step == 4:
                raise Stop

    with pytest.raises(Stop):
        trained(fresh(tiny_model_dir), plan(), tmp_path / "b", callbacks=[Killed(ROWS, 2, parts)], checkpoint_every=3)
    with parts.open("a") as file:
        file.write('{"step": 6, "ro')  # torn by the kill
    assert [row["step"] for row in read_jsonl(parts, torn=True)] == [0, 2, 4]
    again, _ = trained(
        fresh(tiny_model_dir), plan(), tmp_path / "b", callbacks=[Trajectory(ROWS, 2, parts)], checkpoint_every=3
    )
    assert parts.read_bytes() == whole.read_bytes()
    assert farthest(kept, again) == 0
    assert [row["step"] for row in read_jsonl(whole)] == [0, 2, 4, 6]


def test_it_changes_no_training(tiny_model_dir, tmp_path):
    plain, _ = trained(fresh(tiny_model_dir), plan(), tmp_path / "a")
    watched, _ = trained(
        fresh(tiny_model_dir), plan(), tmp_path / "b", callbacks=[Trajectory(ROWS, 1, tmp_path / "t.jsonl")]
    )
    assert farthest(plain, watched) == 0


def test_what_is_written_is_what_the_model_says(tiny_model_dir, tmp_path):
    model = fresh(tiny_model_dir)
    trained(model, plan(), tmp_path, callbacks=[Trajectory(ROWS, 4, tmp_path / "t.jsonl")])
    last = read_jsonl(tmp_path / "t.jsonl")[-1]["rows"]
    assert [row["split"] for row in last] == ["forget"] * 4 + ["retain"] * 4
    for row, seen in zip((*ROWS["forget"], *ROWS["retain"]), last, strict=True):
        with torch.no_grad():
            chances = model(torch.tensor([row.ids])).logits[0, row.answer_start - 1 : -1].softmax(-1)
        own = [float(chances[at, token]) for at, token in enumerate(row.ids[row.answer_start :])]
        assert (seen["id"], seen["token"]) == (row.id, row.ids[row.answer_start])
        assert seen["first"] == pytest.approx(own[0], abs=2e-5)
        assert seen["mean"] == pytest.approx(sum(own) / len(own), abs=2e-5)
        assert seen["entropy"] == pytest.approx(float(-(chances[0] * chances[0].log()).sum()), abs=1e-4)
        assert [chance for _, chance in seen["top"]] == pytest.approx(chances[0].topk(5).values.tolist(), abs=2e-5)


@pytest.mark.parametrize(("every", "looks"), [(1, 7), (2, 4), (4, 3), (5, 3), (100, 2)])
def test_one_forward_a_look(tiny_model_dir, tmp_path, monkeypatch, every, looks):
    """Six steps: at 0, every so many, and after the last, which is looked at once."""
    calls = []
    real = callbacks.predict
    monkeypatch.setattr(callbacks, "predict", lambda model, rows: calls.append(len(rows)) or real(model, rows))
    trained(fresh(tiny_model_dir), plan(), tmp_path, callbacks=[Trajectory(ROWS, every, tmp_path / "t.jsonl")])
    assert calls == [8] * looks


@pytest.fixture(scope="module")
def recipe(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seesaw")
    private, public = people(folder / "private.jsonl", "private", 3), people(folder / "public.jsonl", "public", 3)
    return {
        "model": {"name": str(tiny_model_dir)},
        "data": {"forget": private, "retain": public},
        "unlearn": {"method": "grad_diff", "epochs": 4, "learning_rate": 1e-2, "lora": {"r": 2}},
    }


def test_off_writes_nothing_and_purge_takes_it(recipe, tmp_path):
    assert relearn.Recipe.from_mapping(recipe).unlearn.trajectory == 0
    off = relearn.unlearn(relearn.Recipe.from_mapping(recipe), tmp_path / "off").path
    assert not (off / "trajectory.jsonl").exists()
    on = {**recipe, "unlearn": {**recipe["unlearn"], "trajectory": 1}}
    folder = relearn.unlearn(relearn.Recipe.from_mapping(on), tmp_path / "on").path
    rows = read_jsonl(folder / "trajectory.jsonl")
    assert [row["step"] for row in rows] == list(range(len(rows))) and len(rows) > 3
    assert {one["split"] for one in rows[0]["rows"]} == {"forget", "retain"}
    assert "answer" not in json.dumps(rows)
    purge(folder, really=True)
    assert not (folder / "trajectory.jsonl").exists()
