"""Circuits: contributions by hand, and a tiny model's attention written out from its weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from relearn.analysis.circuits import Edge, InformationFlow, contributions, extract_circuit, information_flow
from relearn.analysis.hooks import HookedModel
from relearn.core.errors import InputError

COMMON: dict[str, Any] = {
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**COMMON, attention_bias=True),
    "mistral": MistralConfig(**COMMON),
    "qwen2": Qwen2Config(**COMMON),
    "qwen3": Qwen3Config(**COMMON, head_dim=4),
    "gemma": GemmaConfig(**COMMON, head_dim=6),
    "gemma2": Gemma2Config(**COMMON, head_dim=4),
}
IDS = (5, 9, 13, 2, 7, 30)


def model(config: Any) -> Any:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in made.parameters():
            # Biases start at zero and layers nearly do nothing: both must be seen.
            weight.mul_(8) if weight.ndim > 1 else weight.add_(0.3 * torch.randn_like(weight))
    return made.eval()


def test_contributions_by_hand():
    node, parts = torch.tensor([4.0, 2.0]), torch.tensor([[3.0, 0.0], [1.0, 3.0], [0.0, -1.0]])
    # |y| = 6; |y - z| = 3, 4 and 7: proximities 3, 2 and 0.
    assert contributions(node, parts).tolist() == pytest.approx([0.6, 0.4, 0.0])
    assert contributions(torch.zeros(2), torch.ones(4, 2)).tolist() == [0.25] * 4


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_contributions_sum_to_one(parts, width, seed):
    drawn = torch.randn(3, parts, width, generator=torch.Generator().manual_seed(seed))
    found = contributions(drawn.sum(1), drawn)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(3))


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_every_node_sums_to_one_and_nothing_is_left_on_the_model(kind):
    inside = HookedModel(model(CONFIGS[kind]))
    before = inside.model.config._attn_implementation
    found = information_flow(inside, IDS)
    assert found.attention.shape == (2, 6, 8) and found.mlp.shape == (2, 6, 2)
    torch.testing.assert_close(found.attention.sum(-1), torch.ones(2, 6))
    torch.testing.assert_close(found.mlp.sum(-1), torch.ones(2, 6))
    assert (found.attention[:, :, :6].triu(1) < 1e-5).all()
    assert inside.model.config._attn_implementation == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in inside.model.modules())


def test_the_first_layer_written_out_from_its_weights():
    """Heads one by one, rotary positions by complex numbers, biases apart: nothing of the model's code is called."""
    made = model(CONFIGS["llama"])
    weights = {name: value.detach() for name, value in made.state_dict().items()}
    of = {name.removeprefix("model.layers.0."): value for name, value in weights.items()}
    into = weights["model.embed_tokens.weight"][list(IDS)]
    normed = into / (into.square().mean(-1, keepdim=True) + 1e-6).sqrt() * of["input_layernorm.weight"]

    def turned(values: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(6)[:, None] * torch.tensor([1.0, 10000**-0.5])
        spun = torch.complex(values[:, :2], values[:, 2:]) * torch.polar(torch.ones(6, 2), angles)
        return torch.cat([spun.real, spun.imag], 1)

    parts = torch.zeros(6, 6, 16)
    bias = of["self_attn.o_proj.bias"].clone()
    for head in range(4):
        mine, shared = slice(4 * head, 4 * head + 4), slice(4 * (head // 2), 4 * (head // 2) + 4)
        query = turned(normed @ of["self_attn.q_proj.weight"][mine].T + of["self_attn.q_proj.bias"][mine])
        key = turned(normed @ of["self_attn.k_proj.weight"][shared].T + of["self_attn.k_proj.bias"][shared])
        seen = (query @ key.T / 2).masked_fill(torch.ones(6, 6).triu(1) > 0, -torch.inf).softmax(-1)
        moved = normed @ of["self_attn.v_proj.weight"][shared].T @ of["self_attn.o_proj.weight"][:, mine].T
        parts += seen[:, :, None] * moved[None]
        bias += of["self_attn.o_proj.weight"][:, mine] @ of["self_attn.v_proj.bias"][shared]
    node = into + parts.sum(1) + bias
    expected = torch.zeros(6, 8)
    for token in range(6):
        every = [*parts[token], into[token], bias]
        near = [max(0.0, float(node[token].abs().sum() - (node[token] - part).abs().sum())) for part in every]
        expected[token] = torch.tensor(near) / sum(near)
    torch.testing.assert_close(information_flow(HookedModel(made), IDS).attention[0], expected, rtol=1e-3, atol=1e-4)


def test_a_graph_by_hand():
    """Two tokens, two layers, from token 1: what is under the threshold is cut, and all that hangs on it."""
    attention = torch.tensor(
        [[[0.5, 0.0, 0.5, 0.0], [0.05, 0.35, 0.6, 0.0]], [[0.9, 0.0, 0.1, 0.0], [0.3, 0.04, 0.62, 0.04]]]
    )
    mlp = torch.tensor([[[0.95, 0.05], [0.93, 0.07]], [[0.5, 0.5], [0.97, 0.03]]])
    found = extract_circuit(InformationFlow(attention, mlp), [1], 0.06)
    assert found == pytest.approx(
        {
            Edge(1, "keep", 1, 1): 0.97,
            Edge(1, "attention", 1, 0): 0.3,
            Edge(1, "residual", 1, 1): 0.62,
            Edge(0, "keep", 0, 0): 0.95,
            Edge(0, "attention", 0, 0): 0.5,
            Edge(0, "residual", 0, 0): 0.5,
            Edge(0, "keep", 1, 1): 0.93,
            Edge(0, "mlp", 1, 1): 0.07,
            Edge(0, "attention", 1, 1): 0.35,
            Edge(0, "residual", 1, 1): 0.6,
        }
    )
    higher = extract_circuit(InformationFlow(attention, mlp), [1], 0.08)
    assert set(found) - set(higher) == {Edge(0, "mlp", 1, 1)}
    assert extract_circuit(InformationFlow(attention, mlp), [0], 0.06).keys().isdisjoint({Edge(1, "keep", 1, 1)})


def test_another_kind_of_model_is_refused_in_one_line():
    gpt2 = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=40, n_positions=64, n_embd=16, n_layer=2, n_head=2))
    with pytest.raises(InputError, match="built like Llama, Mistral, Qwen or Gemma, not GPT2LMHeadModel"):
        information_flow(HookedModel(gpt2), IDS)


def test_parts_that_do_not_add_up_are_refused():
    made = model(CONFIGS["llama"])
    made.model.layers[0].self_attn.o_proj.register_forward_hook(lambda _module, _args, output: output + 1)
    information_flow(HookedModel(made), IDS)  # A constant is a bias, whoever adds it.
    made.model.layers[1].mlp.register_forward_hook(lambda _module, _args, output: output)
    made.model.layers[1].register_forward_hook(lambda _module, _args, output: output * 2)
    with pytest.raises(InputError, match="circuits need"):
        information_flow(HookedModel(made), IDS)
