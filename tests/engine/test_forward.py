"""Packing, padding and single rows must give the same scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from relearn.engine import forward
from relearn.engine.forward import TokenRow, answer_logits, answer_logprobs, answer_targets, predict
from relearn.engine.model_support import can_pack, frozen_head, padded_logits
from relearn.engine.packing import ATTENTION, rows_attention, split_packs
from tiny import SIZES, VOCABULARY


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


def single_row_logits(model, rows):
    """One row at a time, no packing, no padding, all logits: the definition."""
    pieces = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0]
        pieces.append(logits[row.answer_start - 1 : len(row.ids) - 1])
    return torch.cat(pieces)


token_rows = st.lists(
    st.integers(2, 40).flatmap(
        lambda length: st.tuples(
            st.lists(st.integers(0, VOCABULARY - 1), min_size=length, max_size=length), st.integers(1, length - 1)
        )
    ),
    min_size=1,
    max_size=6,
).map(lambda rows: [TokenRow(str(n), tuple(ids), start) for n, (ids, start) in enumerate(rows)])


@settings(max_examples=25, deadline=None)
@given(rows=token_rows)
def test_packed_and_padded_equal_single_rows(model, rows):
    expected = single_row_logits(model, rows)
    device = torch.device("cpu")
    assert torch.allclose(answer_logits(model, rows), expected, atol=1e-4)
    assert torch.allclose(padded_logits(model, rows, device), expected, atol=1e-4)


def test_packs_are_cut_at_the_limit(model, monkeypatch):
    rows = [TokenRow(str(n), tuple(range(n, n + 20)), 5) for n in range(7)]
    whole = answer_logits(model, rows)
    monkeypatch.setattr(forward, "CPU_PACK_TOKENS", 45)
    assert split_packs([len(row.ids) for row in rows], 45) == [[0, 1], [2, 3], [4, 5], [6]]
    assert torch.allclose(answer_logits(model, rows), whole, atol=1e-4)


def test_packed_rows_leak_without_the_layout(model):
    """The trap behind packing: rows in one sequence see each other unless attention is told which is which."""
    rows = [TokenRow("a", (5, 6, 7, 8), 2), TokenRow("b", (9, 10, 11, 12), 2)]
    ids = torch.tensor([[token for row in rows for token in row.ids]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    right = single_row_logits(model, rows)[2:]
    leaking = model(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False).logits
    assert (leaking[0, 5:7] - right).abs().max() > 1e-3
    assert torch.allclose(answer_logits(model, rows)[2:], right, atol=1e-4)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_model_whose_packed_rows_see_each_other_is_found_out(tiny_model_dir, kind, monkeypatch, capsys):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=kind).eval()
    rows = [TokenRow("a", tuple(range(3, 20)), 4), TokenRow("b", tuple(range(30, 44)), 6)]
    expected = single_row_logits(model, rows).float()
    monkeypatch.setitem(
        ALL_ATTENTION_FUNCTIONS, ATTENTION, lambda *given, row_layout=None, **more: rows_attention(*given, **more)
    )
    assert not can_pack(model)
    assert "they are padded" in capsys.readouterr().err
    assert torch.allclose(answer_logits(model, rows), expected, atol=1e-4 if kind == torch.float32 else 5e-2)


@pytest.mark.parametrize(("attention", "packs"), [("sdpa", True), ("eager", False)])
def test_every_attention_separates_rows(tiny_model_dir, attention, packs):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, attn_implementation=attention).eval()
    assert can_pack(model) is packs
    rows = [TokenRow("a", tuple(range(3, 20)), 4), TokenRow("b", tuple(range(30, 44)), 6)]
    assert torch.allclose(answer_logits(model, rows), single_row_logits(model, rows), atol=1e-4)


def mistral(window: int) -> MistralConfig:
    return MistralConfig(**SIZES, sliding_window=window)


SHAPES = {
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gpt_neox": lambda: GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    ),
    "gemma2": lambda: Gemma2Config(**SIZES, head_dim=8, sliding_window=8, final_logit_softcapping=2.0),
    "gemma3": lambda: Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=24, layer_types=["sliding_attention", "full_attention"]
    ),
    "mistral": lambda: mistral(8),
    "mistral_wide": lambda: mistral(24),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=8),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_other_architectures_get_the_same_scores(shape):
    """Packed where the model keeps rows apart, padded where not; never wrong."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPES[shape]()).eval()
    rows = [
        TokenRow("a", tuple(range(3, 25)), 14),
        TokenRow("b", (*range(3, 15), 40, 41, 42), 13),
        TokenRow("c", tuple(range(50, 60)), 2),
    ]
    with torch.no_grad():
        assert torch.allclose(answer_logits(model, rows), single_row_logits(model, rows), atol=1e-4)


@pytest.mark.parametrize("shape", ["gemma3", "mistral_wide"])
def test_rows_within_a_sliding_window_are_packed_and_longer_ones_are_not(shape):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPES[shape]()).eval()
    assert can_pack(model, 24) and not can_pack(model, 25)
    rows = [TokenRow("a", tuple(range(3, 27)), 14), TokenRow("b", (*range(3, 15), 40, 41, 42), 13)]
    longer = [*rows, TokenRow("c", tuple(range(50, 80)), 9)]
    with torch.no_grad():
        for some in (rows, longer):
            assert torch.allclose(answer_logits(model, some), single_row_logits(model, some), atol=1e-4)


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [6.0] * 4}


@pytest.mark.parametrize("rope", [{"rope_type": "dynamic", "factor": 8.0}, LONGROPE], ids=["dynamic", "longrope"])
def test_a_row_that_changes_rope_changes_no_other_row(rope, capsys):
    """A row beyond the original length changes the frequencies of every row in its pack or batch, and dynamic NTK keeps
    those of the longest row so far."""
    torch.manual_seed(0)
    original = 20
    own = {"rope_theta": 10000.0, **rope}
    if rope is LONGROPE:
        own["original_max_position_embeddings"] = original
    positions = 80 if rope is LONGROPE else original
    config = LlamaConfig(**SIZES, max_position_embeddings=positions, rope_parameters=own, initializer_range=0.5)
    model = AutoModelForCausalLM.from_config(config).eval()
    short = [TokenRow("a", tuple(range(3, 20)), 14), TokenRow("b", tuple(range(9, 9 + original)), 13)]
    long = [TokenRow("c", tuple(range(50, 110)), 40), TokenRow("d", tuple(range(50, 80)), 9)]
    assert can_pack(model, original) and not can_pack(model, original + 1)
    with torch.no_grad():
        alone = [answer_logits(model, [row]) for row in (*short, *long)]
        fresh = AutoModelForCausalLM.from_config(config).eval()
        fresh.load_state_dict(model.state_dict())
        assert torch.allclose(alone[3], padded_logits(fresh, long[1:], torch.device("cpu")), atol=1e-4)
        mixed = [short[0], long[0], short[1], long[1]]
        expected = torch.cat([alone[0], alone[2], alone[1], alone[3]])
        assert torch.allclose(answer_logits(model, mixed), expected, atol=1e-4)
        together = padded_logits(model, [short[0], long[0]], torch.device("cpu"))[: short[0].answer_tokens]
        assert not torch.allclose(together, alone[0], atol=0.1), "in one batch, the row does change"
    assert capsys.readouterr().err.count("RoPE of this model changes beyond 20 tokens") == 1


def test_the_output_layer_is_left_out_only_where_it_is_all_there_is(model):
    assert frozen_head(model.requires_grad_(False)) is model.get_output_embeddings()
    torch.manual_seed(0)
    capped = AutoModelForCausalLM.from_config(SHAPES["gemma2"]()).requires_grad_(False).eval()
    assert frozen_head(capped) is None


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_states_of_a_layer_are_those_of_the_model(tiny_model_dir, attention):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, attn_implementation=attention).eval()
    rows = [TokenRow("a", tuple(range(3, 20)), 9), TokenRow("b", (*range(3, 12), 40, 41, 42), 9)]
    seen = predict(model, rows, layer=0)
    expected = []
    for row in rows:
        states = model(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states[1]
        expected.append(states[0, row.answer_start - 1 : -1])
    assert torch.allclose(seen.layer, torch.cat(expected), atol=1e-5)


def test_logprobs_keep_the_order_of_the_rows(model):
    rows = [
        TokenRow("long", tuple(range(3, 60)), 20),
        TokenRow("short", (4, 5, 6), 1),
        TokenRow("mid", tuple(range(9, 29)), 3),
    ]
    found = answer_logprobs(model, rows, batch_tokens=64)
    assert [len(piece) for piece in found] == [37, 2, 17]
    for row, piece in zip(rows, found, strict=True):
        logits = single_row_logits(model, [row])
        expected = logits.log_softmax(-1)[torch.arange(len(piece)), torch.tensor(row.answer_ids)]
        assert torch.allclose(piece, expected, atol=1e-4)


def test_pad_equal_to_eos_hides_nothing(tiny_model_dir):
    """Trap 8: the mask comes from lengths, so an end-of-turn token that is also the pad token is scored."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    eos = AutoTokenizer.from_pretrained(tiny_model_dir).eos_token_id
    model.config.pad_token_id = eos
    rows = [TokenRow("a", (5, 6, 7, eos), 2), TokenRow("b", (5, eos, 7, 8, 9, eos), 2)]
    expected = single_row_logits(model, rows)
    assert torch.allclose(padded_logits(model, rows, torch.device("cpu")), expected, atol=1e-4)


def test_targets_and_owners():
    rows = [TokenRow("a", (1, 2, 3), 1), TokenRow("b", (4, 5), 1)]
    targets, owner = answer_targets(rows, "cpu")
    assert targets.tolist() == [2, 3, 5]
    assert owner.tolist() == [0, 0, 1]


@pytest.mark.parametrize("start", [0, 3, 4])
def test_a_row_has_a_prompt_and_an_answer(start):
    with pytest.raises(ValueError, match="answer_start"):
        TokenRow("a", (1, 2, 3), start)
