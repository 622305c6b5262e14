"""What needs a GPU or a package that is not there is said in one line, before anything is loaded."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch

from people import people
from relearn.cli import run_command
from relearn.cli.doctor import _model_options
from relearn.core.config import Model
from relearn.core.errors import InputError, MissingPartError
from relearn.models import load as machine
from relearn.models.load import check_machine, load, quantized, use_liger
from unlearning.toy import fresh


@pytest.fixture(params=[False, True], ids=["no GPU", "GPU, no packages"])
def gpu(request, monkeypatch) -> bool:
    monkeypatch.setattr("torch.cuda.is_available", lambda: request.param)
    monkeypatch.setattr(machine, "has_flash_attention", lambda: False)
    found = importlib.util.find_spec
    absent = ("bitsandbytes", "liger_kernel")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else found(name, *more))
    return request.param


@pytest.mark.parametrize(
    "settings, needed",
    [
        ({"quantization": "nf4"}, "bitsandbytes"),
        ({"liger": "on"}, "liger-kernel"),
        ({"attention": "flash_attention_2"}, "flash-attn"),
    ],
)
def test_what_is_not_there_is_said_with_the_way_out(gpu, settings, needed):
    with pytest.raises(InputError, match=f"^model.{next(iter(settings))}: .* -> ") as raised:
        check_machine(Model(name="any", **settings))
    assert "\n" not in str(raised.value) and raised.value.exit_code == 2
    if gpu:
        assert isinstance(raised.value, MissingPartError) and needed in str(raised.value)
    else:
        assert "CUDA GPU" in str(raised.value)


@pytest.mark.parametrize(
    "case, message",
    [
        ({"full": True}, "4-bit weights cannot be trained -> set unlearn.full to false"),
        ({"learns": True}, "an adapter that is merged into 4-bit weights is rounded away"),
    ],
)
def test_four_bit_weights_are_neither_trained_nor_merged_into(gpu, case, message):
    with pytest.raises(InputError, match=message):
        check_machine(Model(name="any", quantization="nf4"), **case)
    with pytest.raises(InputError, match="rounded away"):
        check_machine(Model(name="any", quantization="nf4", adapter="some/adapter"))


def test_a_plain_model_asks_for_nothing(gpu):
    check_machine(Model(name="any"), full=True, learns=True)
    assert quantized(Model(name="any"), "cuda") == {}


def test_liger_is_left_alone_where_it_cannot_be(tiny_model_dir):
    for wanted in ("auto", "off"):
        assert not use_liger(fresh(tiny_model_dir), wanted)


def test_liger_is_put_into_one_model_and_not_into_those_made_later(monkeypatch):
    """A stand-in for the package, which needs a GPU: what it is told, and what is left of it in the model's module."""
    said = {}

    def put_in(model, **options):
        said.update(options)
        model.norm = "fused"
        monkeypatch.setattr(sys.modules[__name__], "Norm", "fused for all", raising=False)

    package = types.ModuleType("liger_kernel.transformers")
    package._apply_liger_kernel_to_instance = put_in  # pyright: ignore[reportAttributeAccessIssue]
    patches = types.ModuleType("liger_kernel.transformers.monkey_patch")
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}  # pyright: ignore[reportAttributeAccessIssue]
    for module in (types.ModuleType("liger_kernel"), package, patches):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    model = OnGpu()
    assert use_liger(model, "auto") and model.norm == "fused"
    assert said == {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}
    assert Norm == "as it is"
    model.config.model_type = "gpt2"
    assert not use_liger(model, "on")


Norm = "as it is"


class OnGpu:
    def __init__(self):
        self.config = types.SimpleNamespace(model_type="llama")
        self.norm = Norm

    def parameters(self):
        return iter([types.SimpleNamespace(device=torch.device("cuda"))])


def test_loading_and_running_refuse_before_anything_is_written(gpu, tiny_model_dir, tmp_path, capsys):
    with pytest.raises(InputError, match=r"4-bit weights need|bitsandbytes is not"):
        load(Model(name=str(tiny_model_dir), quantization="nf4"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {tiny_model_dir}\ndata: {{forget: {people(tmp_path / 'private.jsonl', 'private')}}}\n")
    out = tmp_path / "run"
    assert run_command(["run", str(recipe), "--out", str(out), "--set", "model.quantization=nf4"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("relearn: model.quantization: ")
    assert not out.exists()


def test_the_doctor_says_what_a_recipe_may_ask_for(gpu):
    found = {check.name: check for check in _model_options()}
    assert set(found) == {"model.quantization: nf4", "model.attention: flash_attention_2", "model.liger: on"}
    assert all(check.state == "missing" and check.optional and check.way_out for check in found.values())
