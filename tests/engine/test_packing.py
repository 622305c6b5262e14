"""Rows that begin alike share their beginning: fewer tokens, the same scores, the same gradients."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from relearn.engine import packing
from relearn.engine.forward import answer_logits
from relearn.engine.packing import TokenRow, pack, segment_tree

SYSTEM = tuple(range(10, 20))


def packed_tokens(rows: list[TokenRow]) -> int:
    return pack(rows, "cpu").ids.numel()


def paths(rows: list[TokenRow]) -> list[tuple[int, ...]]:
    """The tokens each row sees, read back from the sequence."""
    packed = pack(rows, "cpu")
    sequence = packed.ids[0].tolist()
    found = [()] * len(rows)
    for segment in segment_tree(rows):
        if segment.stop == len(rows[segment.row].ids):
            found[segment.row] = tuple(sequence[index] for index in (*segment.path, *segment.indices))
    return found


def test_a_system_prompt_and_a_question_are_laid_out_once():
    rows = [
        TokenRow("a", (*SYSTEM, 1, 2, 3, 4, 5, 6, 7), 15),
        TokenRow("b", (*SYSTEM, 1, 2, 3, 4, 5, 8, 9, 9), 15),
        TokenRow("c", (*SYSTEM, 5, 5), 11),
        TokenRow("d", (30, 31, 32), 1),
    ]
    # a, b and c share SYSTEM (10); a and b go on with 1, 2, 3, 4 (the 5 before the answer is each row's own);
    # own: a 5 6 7, b 5 8 9 9, c 5 5, d 30 31 32
    assert packed_tokens(rows) == 10 + 4 + 3 + 4 + 2 + 3
    assert paths(rows) == [row.ids for row in rows]
    packed = pack(rows, "cpu")
    assert [packed.ids[0, place].item() for place in packed.keep] == [5, 6, 5, 8, 9, 5, 30, 31]


token = st.integers(0, 3)
row_ids = st.tuples(st.lists(token, min_size=2, max_size=14), st.lists(token, min_size=1, max_size=5))


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(row_ids, min_size=1, max_size=6))
def test_every_row_reads_its_own_tokens_in_order(parts):
    rows = [TokenRow(str(n), (*prompt, *answer), len(prompt)) for n, (prompt, answer) in enumerate(parts)]
    assert paths(rows) == [row.ids for row in rows]
    packed = pack(rows, "cpu")
    assert len(packed.keep) == sum(row.answer_tokens for row in rows)
    assert sorted(set(packed.keep.tolist())) == sorted(packed.keep.tolist())
    assert packed_tokens(rows) <= sum(len(row.ids) for row in rows)


def gradients(model, rows) -> list[torch.Tensor]:
    model.zero_grad()
    answer_logits(model, rows).log_softmax(-1).square().sum().backward()
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def test_sharing_changes_neither_scores_nor_gradients(tiny_model_dir, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    rows = [TokenRow(str(n), (*SYSTEM, *range(20 + n, 30 + n)), 14) for n in range(4)]
    rows.append(TokenRow("twice", rows[0].ids, 14))
    shared, slopes = answer_logits(model, rows), gradients(model, rows)
    assert packed_tokens(rows) < 0.7 * sum(len(row.ids) for row in rows)
    monkeypatch.setattr(packing, "MIN_SHARED", 10_000)
    assert packed_tokens(rows) == sum(len(row.ids) for row in rows)
    assert torch.allclose(shared, answer_logits(model, rows), atol=1e-5)
    for one, other in zip(slopes, gradients(model, rows), strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)
