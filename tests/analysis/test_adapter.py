"""Adapters read from their files, against the full update computed the long way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from relearn.analysis.adapter_spectrum import decompose, overlap, read_updates
from relearn.core.errors import InputError
from relearn.models.lora import save_adapter

CONFIG = LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)


@pytest.mark.parametrize("rslora", [False, True])
def test_every_layer_has_the_norm_and_spectrum_of_its_full_update(tmp_path, rslora):
    torch.manual_seed(0)
    lora = LoraConfig(r=3, lora_alpha=12, target_modules=["q_proj", "down_proj"], use_rslora=rslora)
    model = get_peft_model(AutoModelForCausalLM.from_config(CONFIG), lora)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight)
    save_adapter(model, tmp_path)
    found = read_updates(tmp_path)
    assert len(found) == 4 and {one.layer for one in found} == {0, 1}
    for one in found:
        layer: Any = model.get_submodule(one.module)
        full = layer.get_delta_weight("default").detach()
        expected = torch.linalg.svdvals(full)
        torch.testing.assert_close(one.singular, expected[:3], rtol=1e-4, atol=1e-4)
        assert one.norm == pytest.approx(float(full.norm()), rel=1e-4)
        rebuilt = one.basis_out @ torch.diag(one.singular) @ one.basis_in.T
        torch.testing.assert_close(rebuilt, full, rtol=1e-3, atol=1e-3)


def test_effective_rank_by_hand():
    equal = decompose("m", torch.eye(4)[:, :2], torch.eye(5)[:2], 1.0)
    assert equal.effective_rank == pytest.approx(2)
    one_sided = decompose("m", torch.eye(4)[:, :2], torch.diag(torch.tensor([1.0, 0.0])) @ torch.eye(5)[:2], 1.0)
    assert one_sided.effective_rank == pytest.approx(1)
    none = decompose("m", torch.zeros(4, 2), torch.eye(5)[:2], 1.0)
    assert none.effective_rank == 0.0 and none.norm == 0.0


def test_overlap_by_hand():
    x, xy, y = (decompose("m", torch.eye(4)[:, at], torch.ones(len(at), 5).tril(), 1.0) for at in ([0], [0, 1], [1]))
    assert overlap(x, x) == pytest.approx(1)
    assert overlap(x, y) == pytest.approx(0, abs=1e-6)
    assert overlap(x, xy) == pytest.approx(1)
    between = decompose("m", torch.tensor([[1.0], [1.0], [0.0], [0.0]]), torch.ones(1, 5), 1.0)
    assert overlap(x, between) == pytest.approx(0.5)
    assert math.isnan(overlap(x, decompose("m", torch.zeros(4, 1), torch.ones(1, 5), 1.0)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_overlap_is_symmetric_and_a_share(rank, other, seed):
    generator = torch.Generator().manual_seed(seed)
    made = [
        decompose("m", torch.randn(6, r, generator=generator), torch.randn(r, 5, generator=generator), 0.7)
        for r in (rank, other)
    ]
    forth, back = overlap(made[0], made[1]), overlap(made[1], made[0])
    assert forth == pytest.approx(back, abs=1e-5)
    assert -1e-6 <= forth <= 1 + 1e-5


def test_a_pickled_adapter_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="safetensors"):
        read_updates(tmp_path)
