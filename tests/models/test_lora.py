"""LoRA: what is done for mixed precision changes no number, and can be undone."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from relearn.core.config import Lora
from relearn.engine.forward import TokenRow, predict
from relearn.models.lora import add_lora, ready_for_autocast
from relearn.unlearning.reference_model import adapter_off

ROWS = [TokenRow("a", tuple(range(3, 20)), 4), TokenRow("b", tuple(range(30, 44)), 6)]


def adapted(tiny_model_dir):
    model = add_lora(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir).requires_grad_(False), Lora(r=4, dropout=0.0), seed=0
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


def states_and_gradients(model, *, half: bool):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        states = predict(model, ROWS).states
    states.float().square().sum().backward()
    return states.detach(), [weight.grad for weight in model.parameters() if weight.requires_grad]


def test_ready_for_autocast_gives_the_numbers_of_autocast(tiny_model_dir):
    model = adapted(tiny_model_dir)
    plain, slopes = states_and_gradients(model, half=True)
    ready_for_autocast(model)
    ready, own = states_and_gradients(model, half=True)
    assert torch.equal(plain, ready)
    for one, other in zip(slopes, own, strict=True):
        assert torch.allclose(one, other, rtol=0.05, atol=0.02 * float(one.abs().max()))


def test_outside_autocast_and_undone_nothing_has_changed(tiny_model_dir):
    model = adapted(tiny_model_dir)
    before, _ = states_and_gradients(model, half=False)
    ready_for_autocast(model)
    assert torch.equal(states_and_gradients(model, half=False)[0], before)
    with adapter_off(model), torch.no_grad():
        assert not torch.equal(predict(model, ROWS).states, before)
    ready_for_autocast(model, False)
    assert torch.equal(states_and_gradients(model, half=False)[0], before)
    assert all("forward" not in vars(module) for module in model.modules() if hasattr(module, "base_layer"))
    assert not any("base_layer" in name and "forward" in vars(module) for name, module in model.named_modules())


def test_a_model_in_bfloat16_made_ready_for_autocast_answers_outside_of_it(tiny_model_dir):
    # The adapter stays in float32, the states are in bfloat16: without autocast somebody has to cast them.
    half = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16).requires_grad_(False)
    model = add_lora(half, Lora(r=4, alpha=8, dropout=0.0), seed=0)
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = model(ids).logits
    ready_for_autocast(model)
    assert torch.equal(model(ids).logits, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(model(ids).logits.float(), expected.float(), atol=0.05)
    ready_for_autocast(model, False)
    assert torch.equal(model(ids).logits, expected)
