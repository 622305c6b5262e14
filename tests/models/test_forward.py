"""Packing, padding and single rows must give the same scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from relearn.models import forward
from relearn.models.forward import TokenRow, answer_logits, answer_logprobs, answer_targets, can_pack
from tiny import VOCABULARY


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
    assert torch.allclose(forward._padded_logits(model, rows, device), expected, atol=1e-4)


def test_packs_are_cut_at_the_limit(model, monkeypatch):
    rows = [TokenRow(str(n), tuple(range(n, n + 20)), 5) for n in range(7)]
    whole = answer_logits(model, rows)
    monkeypatch.setattr(forward, "CPU_PACK_TOKENS", 45)
    assert [len(pack) for pack in forward._packs(rows, 45)] == [2, 2, 2, 1]
    assert torch.allclose(answer_logits(model, rows), whole, atol=1e-4)


def test_packing_needs_both_no_mask_and_no_cache(model):
    """The trap behind the two arguments: with an attention mask, or the default cache, packed rows see each other."""
    rows = [TokenRow("a", (5, 6, 7, 8), 2), TokenRow("b", (9, 10, 11, 12), 2)]
    ids = torch.tensor([[token for row in rows for token in row.ids]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    right = single_row_logits(model, rows)[2:]
    leaking = model(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False).logits
    assert (leaking[0, 5:7] - right).abs().max() > 1e-3
    cached = model(input_ids=ids, position_ids=positions, attention_mask=None, use_cache=True).logits
    assert (cached[0, 5:7] - right).abs().max() > 1e-3
    assert torch.allclose(answer_logits(model, rows)[2:], right, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_allowed_attention_separates_packed_rows(tiny_model_dir, attention):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, attn_implementation=attention).eval()
    assert can_pack(model)
    rows = [TokenRow("a", tuple(range(3, 20)), 4), TokenRow("b", tuple(range(30, 44)), 6)]
    assert torch.allclose(answer_logits(model, rows), single_row_logits(model, rows), atol=1e-4)


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
    assert torch.allclose(forward._padded_logits(model, rows, torch.device("cpu")), expected, atol=1e-4)


def test_targets_and_owners():
    rows = [TokenRow("a", (1, 2, 3), 1), TokenRow("b", (4, 5), 1)]
    targets, owner = answer_targets(rows, "cpu")
    assert targets.tolist() == [2, 3, 5]
    assert owner.tolist() == [0, 0, 1]


@pytest.mark.parametrize("start", [0, 3, 4])
def test_a_row_has_a_prompt_and_an_answer(start):
    with pytest.raises(ValueError, match="answer_start"):
        TokenRow("a", (1, 2, 3), start)
