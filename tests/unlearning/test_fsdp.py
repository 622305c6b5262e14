"""A model whose weights are split between two processes by torch's fully_shard trains as one that is whole.

On a CPU, where accelerate's own FSDP would silently be DDP; that one needs a GPU and is not tried here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from relearn.core.files import read_json
from relearn.engine.forward import answer_logprobs
from relearn.models.lora import save_adapter
from unlearning import sharded
from unlearning.sharded import CASES, STEPS, losses
from unlearning.test_parallel import launch
from unlearning.toy import FORGET, RETAIN, fresh, weights


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("sharded")
    done = launch(sharded.__file__, str(tiny_model_dir), str(found))
    assert done.returncode == 0, done.stdout + done.stderr
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_parameter_is_in_shards(folder, case):
    for told in read_json(folder / "told.json"):
        shards = told[case]["shards"]
        assert shards and not told[case]["whole"]
        assert all(own[0] * 2 == whole[0] and own[1:] == whole[1:] for whole, own in shards.values())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_the_whole_model(folder, tiny_model_dir, case):
    method, lora = CASES[case]
    model = fresh(tiny_model_dir, lora=lora)
    before = weights(model)
    alone = losses(model, method)
    assert len(alone) == STEPS and len(set(alone)) == STEPS
    for told in read_json(folder / "told.json"):
        assert told[case]["losses"] == pytest.approx(alone, rel=1e-5)
    after = load_file(folder / f"{case}.safetensors")
    for name, weight in weights(model).items():
        assert torch.allclose(after[name], weight, atol=1e-6), name
    assert any(not torch.equal(weight, before[name]) for name, weight in weights(model).items())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_rows_are_packed_and_the_output_layer_stays_inside(folder, case):
    """Outside a pass nobody has a whole output layer that states could be given to."""
    for told in read_json(folder / "told.json"):
        assert told[case]["path"] == [True, True, True]
        assert told["unseen"][:2] == [True, True]


@pytest.mark.slow
def test_log_probabilities_are_those_of_the_whole_model(folder, tiny_model_dir):
    alone = answer_logprobs(fresh(tiny_model_dir, lora=False), [*FORGET, *RETAIN])
    for told in read_json(folder / "told.json"):
        for said, expected in zip(told["logprobs"], alone, strict=True):
            assert torch.allclose(torch.tensor(said), expected, atol=1e-5)


@pytest.mark.slow
def test_the_adapter_is_saved_whole(folder, tiny_model_dir, tmp_path):
    save_adapter(fresh(tiny_model_dir), tmp_path)
    saved = load_file(folder / "saved" / "adapter_model.safetensors")
    expected = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: weight.shape for name, weight in saved.items()} == {
        name: weight.shape for name, weight in expected.items()
    }
