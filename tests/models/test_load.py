"""Loading: a fault of a model's folder is one line, found without reading the weights; saving keeps a model's form."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from relearn.core.config import Lora, Model
from relearn.core.errors import InputError
from relearn.inference.run_models import check_model, put_adapter
from relearn.models.load import check_lora, load, load_tokenizer, save_like
from relearn.models.lora import add_lora, merge, probe_ids, probe_logits, save_adapter
from tiny import save_tiny


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def refusal(spec: Model, *, also_load: bool = True) -> str:
    """The line of the check, after making sure that loading ends in one line too."""
    calls = [lambda: check_model(spec, "--after")] + ([lambda: load(spec)] if also_load else [])
    lines = []
    for call in calls:
        with pytest.raises(InputError) as caught:
            call()
        assert "\n" not in str(caught.value) and " -> " in str(caught.value)
        lines.append(str(caught.value))
    return lines[0]


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_weights_that_are_no_weights(folder):
    spec, file = Model(name=str(folder)), folder / "model.safetensors"
    weights = file.read_bytes()
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "model.safetensors: is a git-LFS pointer, not the weights -> fetch them with git lfs pull" in refusal(spec)
    for damaged in (weights[: len(weights) // 2], weights[:5], b"", weights + b"x", b"\xff" * 100):
        file.write_bytes(damaged)
        assert "is damaged or cut off" in refusal(spec, also_load=damaged != weights + b"x")


def test_a_missing_shard(folder):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    (folder / "model.safetensors").unlink()
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, own in parts.items():
        save_file({name: weights[name] for name in own}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    check_model(Model(name=str(folder)), "--after")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors: is missing beside its index" in refusal(Model(name=str(folder)))


@pytest.mark.parametrize(
    ("quantised", "package"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, "optimum"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors", "format": "dense"}, "compressed-tensors"),
    ],
)
def test_missing_packages_of_quantised_weights(folder, quantised, package):
    edit(folder / "config.json", quantization_config=quantised)
    assert package in refusal(Model(name=str(folder))).rpartition(" -> pip install ")[2]


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', ""])
def test_corrupt_files(folder, file, text):
    (folder / file).write_text(text)
    with pytest.raises(InputError) as caught:
        load(Model(name=str(folder)))
        raise InputError("loads after all -> ")
    assert "\n" not in str(caught.value) and " -> " in str(caught.value)


def test_unknown_architectures_and_other_kinds(folder):
    edit(folder / "config.json", model_type="nothing_yet")
    assert "nothing_yet" in refusal(Model(name=str(folder)))
    edit(folder / "config.json", model_type="t5")
    assert "t5 is no causal language model" in refusal(Model(name=str(folder)))


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), PermissionError(13, "x", "y")]
)
def test_errors_of_the_machine_while_loading(folder, monkeypatch, error):
    def failing(*_args, **_options):
        raise error

    monkeypatch.setattr("relearn.models.load.AutoModelForCausalLM.from_pretrained", failing)
    with pytest.raises(InputError, match=r"cannot load model .*(not enough memory|no permission).* -> "):
        load(Model(name=str(folder)))


def test_an_adapter_of_another_model_is_found_without_weights(folder, tmp_path):
    adapted = add_lora(load(Model(name=str(folder))).model, Lora(r=2, target=("q_proj",)), seed=0)
    save_adapter(adapted, tmp_path / "adapter")
    fitting = Model(name=str(folder), adapter=str(tmp_path / "adapter"))
    check_model(fitting, "--after")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name.replace("q_proj", "query"): weight for name, weight in load_file(file).items()}, file)
    assert "adapter does not fit the model: 4 weights are missing" in refusal(fitting)


def test_lora_layers_are_checked_without_weights(folder):
    check_lora(Model(name=str(folder)), Lora(), "unlearn.lora")
    with pytest.raises(InputError, match=r"learn\.lora\.target: the model has no layer 'query'"):
        check_lora(Model(name=str(folder)), Lora(target=("query",)), "learn.lora")
    check_lora(Model(name="not/there"), Lora(target=("query",)), "learn.lora")


def trained_adapter(spec: Model, folder):
    model = add_lora(load(spec).model, Lora(r=2, dropout=0.0, target=("q_proj", "lm_head")), seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    save_adapter(model, folder)


@pytest.mark.parametrize("tied", [True, False])
def test_saving_keeps_dtype_tokenizer_and_configuration(tmp_path, tied):
    source = save_tiny(tmp_path / "model", "Llama" if tied else "Mixtral", dtype=torch.bfloat16, pad=False)
    spec = Model(name=str(source))
    trained_adapter(spec, tmp_path / "adapter")
    loaded = put_adapter(load(spec), tmp_path / "adapter")
    assert loaded.tokenizer.pad_token is not None
    ids = probe_ids(loaded.model)
    expected = probe_logits(loaded.model, ids)
    (tmp_path / "out").mkdir()
    assert save_like(merge(loaded.model, "adapter"), spec, tmp_path / "out") == torch.bfloat16
    for file in source.iterdir():
        if file.suffix != ".safetensors" and not (tied and file.name == "config.json"):
            assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in source.iterdir()}
    before, after = (load_file(place / "model.safetensors") for place in (source, tmp_path / "out"))
    assert set(after) - set(before) == ({"lm_head.weight"} if tied else set())
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    assert load_tokenizer(Model(name=str(tmp_path / "out"))).pad_token is None
    found = probe_logits(load(Model(name=str(tmp_path / "out"))).model, ids)
    assert torch.allclose(found, expected, atol=0.05) and (found - expected).abs().max() > 0
