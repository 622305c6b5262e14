"""The plan of a training: every row as often as asked, the whole retain set seen, token counts of a step right."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.models.forward import TokenRow
from relearn.tokens.batches import plan_batches


def rows(prefix: str, count: int) -> list[TokenRow]:
    return [TokenRow(f"{prefix}{n}", tuple(range(5 + n % 7)), 2) for n in range(count)]


@settings(max_examples=60, deadline=None)
@given(
    forget=st.integers(1, 40), retain=st.integers(0, 30), batch=st.integers(1, 9), accumulation=st.integers(1, 5),
    epochs=st.integers(1, 3), seed=st.integers(0, 5),
)  # fmt: skip
def test_plan(forget, retain, batch, accumulation, epochs, seed):
    planned = plan_batches(
        rows("f", forget), rows("r", retain), batch_size=batch, accumulation=accumulation, epochs=epochs, seed=seed
    )
    seen = Counter(row.id for micro in planned for row in micro.forget)
    assert set(seen.values()) == {epochs} and len(seen) == forget
    for start in range(0, len(planned), accumulation):
        step = planned[start : start + accumulation]
        assert {micro.step_forget_tokens for micro in step} == {sum(r.answer_tokens for m in step for r in m.forget)}
        assert {micro.step_retain_tokens for micro in step} == {sum(r.answer_tokens for m in step for r in m.retain)}
    beside = Counter(row.id for micro in planned for row in micro.retain)
    if retain:
        assert beside.total() == forget * epochs
        # Trap 12: a walk over the whole set, so no row is ever two rounds ahead of another.
        counts = [beside.get(f"r{n}", 0) for n in range(retain)]
        assert max(counts) - min(counts) <= 1
    else:
        assert not beside


def test_same_seed_same_plan_other_seed_other_plan():
    def plan(seed: int):
        return plan_batches(rows("f", 20), rows("r", 9), batch_size=4, accumulation=1, epochs=1, seed=seed)

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_fractions_of_an_epoch():
    planned = plan_batches(rows("f", 16), (), batch_size=4, accumulation=1, epochs=0.5, seed=0)
    assert len(planned) == 2


def test_batches_hold_rows_of_similar_length():
    lengths = [TokenRow(str(n), tuple(range(3 + n)), 1) for n in range(64)]
    planned = plan_batches(lengths, (), batch_size=8, accumulation=1, epochs=1, seed=0)
    spread = [max(len(r.ids) for r in micro.forget) - min(len(r.ids) for r in micro.forget) for micro in planned]
    assert max(spread) == 7
