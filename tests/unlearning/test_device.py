"""The recipe's device is kept by all that runs afterwards, whatever else the machine has."""

from __future__ import annotations

import torch

from relearn.models import load
from relearn.unlearning.method import METHODS
from relearn.unlearning.step import make_reference
from relearn.unlearning.trainer import Loop, ObjectiveTrainer
from unlearning.toy import fresh, plan


def test_a_model_on_the_cpu_is_trained_there_though_there_is_a_gpu(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model, batches = fresh(tiny_model_dir), plan("ga")
    trainer = ObjectiveTrainer(
        model, batches, METHODS.get("ga").objective({}), loop=Loop(1e-3), folder=tmp_path, log=print
    )
    assert trainer.args.device.type == "cpu"
    assert make_reference(trainer.model, batches[:1], METHODS.get("npo").objective({})) is not None


def test_one_gpu_of_several_becomes_the_current_one(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert load._device("cuda:1") == "cuda:1" and load._device("cpu") == "cpu"
    assert chosen == ["cuda:1"]
