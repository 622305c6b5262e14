"""LoRA: adapters of many architectures survive saving, loading and merging; mixed precision changes no number."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from relearn.analysis.adapter_spectrum import read_updates
from relearn.core.config import Lora
from relearn.core.errors import InputError, RunFailedError
from relearn.engine.forward import TokenRow, predict
from relearn.engine.vllm_backend import merged_weights
from relearn.models.lora import (
    add_lora,
    attach_adapter,
    check_logits,
    expert_parameters,
    linear_layers,
    merge,
    probe_ids,
    probe_logits,
    ready_for_autocast,
    save_adapter,
)
from relearn.unlearning.reference_model import adapter_off
from tiny import tiny_model

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


DENSE = ("Llama", "Gemma2", "Cohere", "Phi3", "GPTNeoX", "GPT2")
MIXTURES = ("Mixtral", "Qwen2Moe", "Qwen3Moe", "GptOss", "DeepseekV3")
IDS = torch.arange(20, 44)[None]


def one_step(model):
    """One step of gradient descent with dropout, in which every trained weight has a gradient."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                weight.normal_(std=0.1)
    model.train()(input_ids=IDS, labels=IDS).loss.backward()
    with torch.no_grad():
        for weight in weights:
            assert weight.grad.any()
            weight.sub_(0.1 * weight.grad.sign())
    return model.eval()


def trained(kind, **settings):
    torch.manual_seed(0)
    return one_step(add_lora(tiny_model(kind).requires_grad_(False), Lora(r=2, **settings), seed=0))


def layer_name(kind, end):
    """The name of the input or output embeddings."""
    model = tiny_model(kind)
    wanted = getattr(model, f"get_{end}_embeddings")()
    return next(name for name, module in model.named_modules() if module is wanted).rsplit(".", 1)[-1]


@pytest.mark.parametrize("target", ["all-linear", "output", "input"])
@pytest.mark.parametrize("kind", [*DENSE, *MIXTURES])
def test_the_merged_model_on_disk_is_the_trained_one(kind, target, tmp_path):
    """Also for LoRA on one of two tied embeddings: merged into the common matrix, logits were off by tens."""
    names = target if target == "all-linear" else (layer_name(kind, target),)
    model = trained(kind, target=names)
    ids = probe_ids(model)
    expected = probe_logits(model, ids)
    with model.disable_adapter():
        assert (probe_logits(model, ids) - expected).abs().max() > 1e-2
    save_adapter(model, tmp_path / "adapter")
    again = attach_adapter(tiny_model(kind).requires_grad_(False), tmp_path / "adapter")
    assert torch.equal(probe_logits(again, ids), expected)
    handed_over = merged_weights(again)
    merge(again, "adapter").save_pretrained(tmp_path / "merged")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(probe_logits(saved, ids), expected, atol=1e-4)
    for name, weight in saved.state_dict().items():
        assert torch.allclose(handed_over[name], weight, atol=1e-5), name


@pytest.mark.parametrize("kind", MIXTURES)
def test_every_expert_has_an_adapter_without_dropout_and_linear_layers_keep_theirs(kind):
    model = add_lora(tiny_model(kind), Lora(r=2, dropout=0.1), seed=0)
    adapted = [module for module in model.modules() if hasattr(module, "lora_A")]
    experts = [module for module in adapted if getattr(module, "parameter_name", "weight") != "weight"]
    layers = 1 if kind == "DeepseekV3" else 2
    assert len(experts) == 2 * layers
    assert all(module.lora_A["default"].weight.shape[0] == 4 * 2 for module in experts)
    queries = next(module for name, module in model.named_modules() if name.endswith(("q_proj", "q_a_proj")))
    assert queries.lora_dropout["default"].p == 0.1


def test_experts_can_be_named_and_a_misspelt_layer_is_an_error():
    model = add_lora(tiny_model("Qwen3Moe"), Lora(r=2, target=("q_proj", "down_proj")), seed=0)
    names = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_" in name}
    assert names == {"q_proj", "experts"}
    assert expert_parameters(tiny_model("Qwen3Moe")) == ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    with pytest.raises(InputError, match=r"unlearn.lora.target: the model has no layer 'lm_hed'"):
        add_lora(tiny_model("Llama"), Lora(target=("q_proj", "lm_hed")), seed=0)


def test_the_spectrum_of_experts_has_one_part_for_each(tmp_path):
    model = trained("Mixtral")
    save_adapter(model, tmp_path)
    before = {name.replace(".base_layer", ""): weight for name, weight in model.get_base_model().state_dict().items()}
    merged = merge(attach_adapter(tiny_model("Mixtral"), tmp_path), "x").state_dict()
    changes = {name: weight - before[name] for name, weight in merged.items() if "experts" in name}
    expected = sorted(norm for change in changes.values() for norm in change.flatten(1).norm(dim=1).tolist())
    updates = [update for update in read_updates(tmp_path) if "experts" in update.module]
    assert len(updates) == 2 * 2 * 4 and {update.layer for update in updates} == {0, 1}
    assert sorted(update.norm for update in updates) == pytest.approx(expected, rel=1e-4)


def test_an_adapter_whose_weights_do_not_fit_is_an_error_and_no_base_model(tmp_path):
    save_adapter(trained("Llama", target=("q_proj", "v_proj")), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: weight for name, weight in weights.items() if "layers.0" in name}, file)
    with pytest.raises(InputError, match=r"4 weights are missing \(.*layers\.1.*give the model that it was trained on"):
        attach_adapter(tiny_model("Llama"), tmp_path)
    save_file({name.replace("self_attn", "attention"): weight for name, weight in weights.items()}, file)
    with pytest.raises(InputError, match=r"8 weights are missing .*8 weights are of layers that it does not have"):
        attach_adapter(tiny_model("Llama"), tmp_path)
    save_file({name: weight[:1] for name, weight in weights.items()}, file)
    with pytest.raises(InputError, match="size mismatch"):
        attach_adapter(tiny_model("Llama"), tmp_path)


def test_other_kinds_of_adapters_and_damaged_files_are_one_line(tmp_path):
    save_adapter(trained("Llama", target=("q_proj",)), tmp_path)
    config, file = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    values, weights = json.loads(config.read_text()), file.read_bytes()

    def refusal():
        with pytest.raises(InputError) as caught:
            attach_adapter(tiny_model("Llama"), tmp_path)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value) and " -> " in str(caught.value)
        return str(caught.value)

    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refusal()
    file.write_bytes(weights[: len(weights) // 2])
    assert "damaged or cut off" in refusal()
    file.write_bytes(weights)
    config.write_text(json.dumps({"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}))
    assert "is an adapter of kind PROMPT_TUNING" in refusal()
    config.write_text(json.dumps({**values, "peft_type": "NOTHING"}))
    assert "NOTHING" in refusal()
    config.write_text(json.dumps({"r": 2}))
    assert "names no peft_type" in refusal()
    config.write_text(json.dumps({**values, "r": "two"}))
    refusal()


def test_merged_logits_that_differ_by_more_than_rounding_are_an_error(monkeypatch):
    model = trained("Llama")
    monkeypatch.setattr(type(model.base_model), "merge_and_unload", lambda self: self.unload())
    with pytest.raises(RunFailedError, match=r"adapter: the merged model is not the run's model"):
        merge(model, "adapter")


def test_the_bound_depends_on_the_dtype_and_holds_for_most_positions():
    expected = torch.full((5, 7), 10.0)
    near = expected + torch.tensor([9.0, 9.0, 0.3, 0.3, 0.3])[:, None]
    check_logits(near, expected, torch.bfloat16, where="x")
    for dtype in (torch.float16, torch.float32):
        with pytest.raises(RunFailedError):
            check_logits(near, expected, dtype, where="x")
    with pytest.raises(RunFailedError):
        check_logits(torch.full((5, 7), torch.nan), expected, torch.bfloat16, where="x")


def test_autocast_with_experts_gives_the_numbers_of_autocast():
    model = trained("Qwen2Moe", dropout=0.0)
    plain, _ = states_and_gradients(model, half=True)
    ready_for_autocast(model)
    assert torch.equal(states_and_gradients(model, half=True)[0], plain)


def test_routers_are_no_linear_layers():
    assert "router" not in linear_layers(tiny_model("GptOss")) and "gate" not in linear_layers(tiny_model("Mixtral"))
