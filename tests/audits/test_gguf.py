"""A model through a GGUF file: the format's own reader, transformers' loader and ours agree."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from relearn.audits.attack import AUDITS
from relearn.audits.attacks.gguf import KINDS, TOOL, read_gguf, run_llama_quantize, write_gguf
from relearn.core.config import Model
from relearn.core.errors import InputError
from relearn.models.load import load

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def model(kind: str = "llama", **more) -> Any:
    torch.manual_seed(0)
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**{**SIZES, **more})).eval()
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **more})).eval()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_unrounded_weights_come_back_as_they_were(tmp_path, kind, tied):
    before, after = model(kind, tie_word_embeddings=tied), model(kind, tie_word_embeddings=tied)
    write_gguf(before, tmp_path / "m.gguf", "F32")
    for weight in after.parameters():
        weight.data.zero_()
    read_gguf(after, tmp_path / "m.gguf")
    for (name, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_read_back_are_the_dequantised_ones(tmp_path, kind):
    before, after = model(), model()
    write_gguf(before, tmp_path / "m.gguf", kind)
    read_gguf(after, tmp_path / "m.gguf")
    own = before.model.layers[1].mlp.up_proj.weight.detach().numpy()
    quantised = gguf.quants.quantize(own, gguf.GGMLQuantizationType[kind])
    expected = gguf.quants.dequantize(quantised, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(after.model.layers[1].mlp.up_proj.weight.detach().numpy(), expected)
    assert not np.array_equal(expected, own)
    assert torch.equal(after.model.norm.weight, before.model.norm.weight)


def test_transformers_reads_the_same_weights_from_the_file(tmp_path):
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    before, after = model(), model()
    write_gguf(before, tmp_path / "m.gguf", "Q8_0")
    read_gguf(after, tmp_path / "m.gguf")
    found = load_gguf_checkpoint(tmp_path / "m.gguf", return_tensors=True, model_to_load=model())
    tensors = found["tensors"]
    for name, weight in after.named_parameters():
        if name in tensors:
            assert torch.equal(tensors[name].float(), weight), name
    assert {name for name in tensors if ".q_proj." in name}


def test_an_architecture_that_cannot_be_written_is_refused_in_a_line(tmp_path):
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=16))
    with pytest.raises(InputError, match="gpt2"):
        write_gguf(gpt, tmp_path / "m.gguf", "Q8_0")
    with pytest.raises(InputError, match="Q4_K"):
        write_gguf(model(hidden_act="silu"), tmp_path / "k.gguf", "Q4_K")


def test_the_attack_asks_all_formats_that_can_be_written(inputs, tiny_model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    asked: dict[str, Any] = {}
    loaded = []

    def fresh():
        loaded.append(load(Model(name=str(tiny_model_dir), device="cpu")))
        return loaded[-1]

    change_weights = AUDITS.get("gguf").change_weights
    assert change_weights is not None
    change_weights(fresh, replace(inputs, folder=tmp_path), asked.setdefault)
    assert list(asked) == list(KINDS) and len(loaded) == len(KINDS)
    assert not list((tmp_path / "audits").iterdir())
    weights = [one.model.model.layers[0].mlp.up_proj.weight for one in asked.values()]
    assert not torch.equal(*weights)
    said = " ".join(capsys.readouterr().err.split())
    assert "gguf, Q4_K_M: not measured" in said and "llama-quantize is not on the PATH" in said


def test_a_tool_that_fails_is_named_with_what_it_said(tmp_path, monkeypatch):
    tool = tmp_path / TOOL
    tool.write_text("#!/bin/sh\necho reading\necho 'unknown model architecture' >&2\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="ended with code 3: unknown model architecture"):
        run_llama_quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q4_K_M")


@pytest.mark.skipif(shutil.which(TOOL) is None, reason=f"llama.cpp's {TOOL} is not installed")
def test_llama_cpp_rounds_to_its_k_format_what_we_wrote(tmp_path):
    """Rows of 256 numbers, which is a block of Q4_K; a sixteenth of the largest is about a step of its 4 bits."""
    config = {"hidden_size": 256, "intermediate_size": 512}
    before, after = model(**config), model(**config)
    write_gguf(before, tmp_path / "whole.gguf", "F32")
    run_llama_quantize(tmp_path / "whole.gguf", tmp_path / "small.gguf", "Q4_K_M")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(str(tmp_path / "small.gguf")).tensors}
    assert kinds["blk.1.ffn_up.weight"] == kinds["blk.1.attn_q.weight"] == "Q4_K"
    read_gguf(after, tmp_path / "small.gguf")
    for (name, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
        if one.ndim > 1:
            assert 0 < (one - other).abs().max() < one.abs().max() / 8, name
        else:
            assert torch.equal(one, other), name
