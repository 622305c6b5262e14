"""Layer states, lenses and patches, against transformers' own states and independent computations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    Qwen2Config,
)

from relearn.analysis.hooks import HookedModel
from relearn.analysis.logit_lens import lens, top_tokens
from relearn.analysis.measurements import answer_logprob, patch_each_layer, patched_logits
from relearn.core.errors import InputError
from relearn.engine.forward import TokenRow

COMMON: dict[str, Any] = {
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**COMMON),
    "qwen2": Qwen2Config(num_key_value_heads=1, **COMMON),
    "gpt2": GPT2Config(vocab_size=40, n_positions=64, n_embd=16, n_layer=3, n_head=2),
    "neox": GPTNeoXConfig(**COMMON),
    "gemma2": Gemma2Config(num_key_value_heads=1, head_dim=8, final_logit_softcapping=30.0, pad_token_id=0, **COMMON),
    "cohere": CohereConfig(logit_scale=0.5, pad_token_id=0, **COMMON),
    "granite": GraniteConfig(logits_scaling=8.0, pad_token_id=0, **COMMON),
}
ROW = TokenRow("a", (5, 9, 13, 2, 7, 30, 11), 4)


def model(kind: str, seed: int = 0):
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(CONFIGS[kind])
    # Larger than at initialisation, so that layers differ visibly.
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.mul_(8)
    return made.eval()


@pytest.fixture(params=list(CONFIGS))
def inside(request) -> HookedModel:
    return HookedModel(model(request.param))


def test_states_are_those_of_transformers(inside):
    own = inside.model(torch.tensor([ROW.ids]), output_hidden_states=True, use_cache=False)
    states, logits = inside.run(ROW.ids)
    torch.testing.assert_close(logits, own.logits[0].detach())
    # transformers puts the final norm on the last of its states.
    torch.testing.assert_close(states[:-1], torch.stack([layer[0] for layer in own.hidden_states[:-1]]).detach())
    torch.testing.assert_close(inside.read(states[-1]), own.logits[0].detach())


def test_logits_at_the_soft_cap_are_read_with_the_cap():
    network = model("gemma2")
    with torch.no_grad():
        network.lm_head.weight.mul_(100)
    inside = HookedModel(network)
    states, logits = inside.run(ROW.ids)
    assert 29.9 < logits.abs().max() <= 30
    plain = inside.head(inside.norm(states[-1]))
    assert plain.abs().max() > 100
    torch.testing.assert_close(inside.read(states[-1]), 30 * torch.tanh(plain / 30))
    assert (inside.read(states[1]).abs() <= 30).all()


def test_decoding_has_gradients_and_any_leading_shape(inside):
    states = inside.states(ROW.ids)[:, None, 2:4].requires_grad_()
    logits = inside.decode(states)
    assert logits.shape == (4, 1, 2, 40)
    assert torch.autograd.grad(logits.sum(), states)[0].any()
    torch.testing.assert_close(logits[2, 0].detach(), inside.read(states[2, 0].detach()))


def test_nothing_is_left_on_the_model(inside):
    inside.run(ROW.ids)
    inside.read(inside.states(ROW.ids))
    assert not any("forward" in vars(module) for module in inside.model.modules())
    for module in inside.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_the_lens_ends_at_the_models_own_answer(inside):
    found = lens(inside, ROW)
    logprobs = inside.model(torch.tensor([ROW.ids])).logits[0].log_softmax(-1).detach()
    for at, token in enumerate(ROW.ids[ROW.answer_start :]):
        row = logprobs[ROW.answer_start - 1 + at]
        assert float(found.logprob[-1, at]) == pytest.approx(float(row[token]), abs=1e-5)
        assert int(found.rank[-1, at]) == sorted(row.tolist(), reverse=True).index(row[token].item()) + 1
    assert found.logprob.shape == found.rank.shape == found.kl.shape == (4, 3)
    assert found.kl[-1].max() < 1e-6
    assert (found.kl[:-1] > 0).all()


def test_the_kl_of_a_layer_by_another_way(inside):
    states, logits = inside.run(ROW.ids)
    place = ROW.answer_start
    other = torch.distributions.Categorical(logits=inside.read(states[1])[place])
    last = torch.distributions.Categorical(logits=logits[place])
    expected = float(torch.distributions.kl_divergence(last, other))
    assert float(lens(inside, ROW).kl[1, 1]) == pytest.approx(expected, rel=1e-4)


def test_candidates_are_sorted_and_the_true_token_has_its_rank(inside):
    _, logits = inside.run(ROW.ids)
    for at, place in enumerate(top_tokens(inside, ROW, top=40)):
        probabilities = logits[ROW.answer_start - 1 + at].softmax(-1)
        assert place.token == ROW.ids[ROW.answer_start + at]
        assert place.probability == pytest.approx(float(probabilities[place.token]), abs=1e-6)
        values = [value for _, value in place.top]
        assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(1, abs=1e-5)
        assert place.top[place.rank - 1][0] == place.token
    assert len(top_tokens(inside, ROW)[0].top) == 5


def test_patching_a_model_with_its_own_states_changes_nothing(inside):
    states, logits = inside.run(ROW.ids)
    for place in range(len(states)):
        torch.testing.assert_close(patched_logits(inside, ROW.ids, {place: states[place]}, range(len(ROW.ids))), logits)


def test_patching_all_positions_of_a_layer_gives_the_donors_rest(inside):
    """Into the last layer's output, every position: only norm and head are left, so the donor's states decide alone."""
    donor, _ = inside.run([3] * len(ROW.ids))
    found = patched_logits(inside, ROW.ids, {3: donor[3]}, range(len(ROW.ids)))
    torch.testing.assert_close(found, inside.read(donor[3]))


def test_patching_one_position_leaves_what_came_before_it(inside):
    donor, _ = inside.run(list(reversed(ROW.ids)))
    found = patched_logits(inside, ROW.ids, {1: donor[1]}, [4])
    _, own = inside.run(ROW.ids)
    torch.testing.assert_close(found[:4], own[:4])
    assert not torch.allclose(found[4:], own[4:])


def test_patching_two_models_of_one_shape():
    """With the start model's states put into the first layer at the prompt, its rest is still the other model's."""
    start, changed = HookedModel(model("llama", 0)), HookedModel(model("llama", 1))
    donor = start.states(ROW.ids)
    found = patch_each_layer(changed, ROW, donor)
    assert len(found) == 4 and all(value < 0 for value in found)
    own = patch_each_layer(changed, ROW, changed.states(ROW.ids))
    assert own == pytest.approx([answer_logprob(changed, ROW)] * 4, abs=1e-5)
    everywhere = patched_logits(changed, ROW.ids, {1: donor[1]}, range(ROW.answer_start))
    assert not torch.allclose(everywhere, changed.run(ROW.ids)[1])


def test_a_model_without_layers_is_refused_in_one_line():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(2, 2)
            self.base_model = torch.nn.Linear(2, 2)

        def get_output_embeddings(self):
            return self.head

    with pytest.raises(InputError, match="the layers of a Odd cannot be read"):
        HookedModel(Odd())
