"""The plan of a training: every row as often as asked, the whole retain set seen, token counts of a step right."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.engine.forward import TokenRow
from relearn.unlearning.data.batches import Size, distinct_rows, plan_batches


def rows(prefix: str, count: int) -> list[TokenRow]:
    return [TokenRow(f"{prefix}{n}", tuple(range(5 + n % 7)), 2) for n in range(count)]


@settings(max_examples=60, deadline=None)
@given(
    forget=st.integers(1, 40),
    retain=st.integers(0, 30),
    batch=st.integers(1, 9),
    accumulation=st.integers(1, 5),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_plan(forget, retain, batch, accumulation, epochs, seed):
    planned = plan_batches(
        rows("f", forget), rows("r", retain), batch_size=batch, accumulation=accumulation, epochs=epochs, seed=seed
    )
    seen = Counter(row.id for micro in planned for row in micro.forget)
    assert set(seen.values()) == {epochs} and len(seen) == forget
    for start in range(0, len(planned), accumulation):
        step = planned[start : start + accumulation]
        for name in ("forget", "retain")[: 2 if retain else 1]:
            rows_ = [row for micro in step for row in micro.streams()[name]]
            size = Size(sum(row.answer_tokens for row in rows_), len(rows_))
            assert all(micro.step[name] == size for micro in step)
    paired = Counter(row.id for micro in planned for row in micro.retain)
    if retain:
        assert paired.total() == forget * epochs
        # Trap 12: a walk over the whole set, so no row is ever two rounds ahead of another.
        counts = [paired.get(f"r{n}", 0) for n in range(retain)]
        assert max(counts) - min(counts) <= 1
    else:
        assert not paired


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


def test_a_token_budget_ends_with_the_step_that_reaches_it():
    """Rows of 5 to 11 tokens, forget and retain alike; whole steps of two micro-batches, over as many epochs."""
    budget = 900
    planned = plan_batches(
        rows("f", 10), rows("r", 7), batch_size=4, accumulation=2, epochs=1, seed=0, token_budget=budget
    )
    assert len(planned) % 2 == 0
    assert sum(micro.tokens for micro in planned[:-2]) < budget <= sum(micro.tokens for micro in planned)
    assert max(Counter(row.id for micro in planned for row in micro.forget).values()) > 1


def test_what_belongs_to_a_forget_row_comes_with_it():
    lose = {f"f{n}": [TokenRow(f"lose{n}", (1, 2, 3, n), 2)] for n in range(6)}
    planned = plan_batches(
        rows("f", 6), rows("r", 3), batch_size=4, accumulation=1, epochs=1, seed=0, paired={"rejected": lose}
    )
    for micro in planned:
        assert [row.id[1:] for row in micro.forget] == [row.id[4:] for row in micro.paired["rejected"]]
        assert micro.step["rejected"].rows == len(micro.forget)
    assert [row.id for row in distinct_rows(planned, "rejected")] == [f"lose{n}" for n in range(6)]
