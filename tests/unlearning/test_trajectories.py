"""How rows are laid out changes no training: batches, order, padding, shared beginnings, recomputation.

Dropout is 0, so what is left between two ways is rounding: small, and as often up as down.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from relearn.engine import packing
from relearn.engine.model_support import can_pack
from relearn.engine.packing import pack
from relearn.unlearning.data.batches import MicroBatch, _cut, can_share, own_accumulation, share, with_step_sizes
from relearn.unlearning.method import METHODS
from relearn.unlearning.step import make_reference, observe
from unlearning.toy import FORGET, agree, fresh, plan, trained

RATE = 1e-3
COMPARED = ["relearn", "npo_gdr", "relearn_dpo_gdr"]
assert len(FORGET) % 8 == 0


def same(one, other) -> None:
    """Weights and logged losses agree but for rounding."""
    (weights, logged), (others, other_logged) = one, other
    agree(weights, others, RATE)
    assert [row["loss"] for row in logged] == pytest.approx([row["loss"] for row in other_logged], rel=1e-4, abs=1e-5)


def run(folder, tmp_path, method, batches, *, attention=None, **loop):
    model = fresh(folder, attention=attention)
    return trained(model, batches, tmp_path, method=method, rate=RATE, runaway_loss=1e6, **loop)


@pytest.mark.parametrize("method", COMPARED)
def test_batch_1_times_accumulation_8_is_batch_8(tiny_model_dir, tmp_path, method):
    big = plan(method, batch_size=8)
    small = [part for micro in big for part in _cut(micro, 8)]
    assert {len(micro.forget) for micro in small} == {1} and len(small) == 8 * len(big)
    for at in range(0, len(small), 8):
        step = with_step_sizes([replace(micro, step={}) for micro in small[at : at + 8]])
        assert step == small[at : at + 8]
    same(run(tiny_model_dir, tmp_path, method, big), run(tiny_model_dir, tmp_path, method, small, accumulation=8))


@pytest.mark.parametrize("method", COMPARED)
def test_any_order_of_rows_in_a_batch(tiny_model_dir, tmp_path, method):
    def turned(micro: MicroBatch) -> MicroBatch:
        return replace(
            micro,
            forget=micro.forget[::-1],
            retain=micro.retain[::-1],
            paired={name: rows[::-1] for name, rows in micro.paired.items()},
        )

    batches = plan(method)
    same(
        run(tiny_model_dir, tmp_path, method, batches),
        run(tiny_model_dir, tmp_path, method, [turned(micro) for micro in batches]),
    )


@pytest.mark.parametrize("method", COMPARED)
def test_padded_is_unpadded(tiny_model_dir, tmp_path, method):
    """Eager attention cannot keep packed rows apart, so rows are padded on the right."""
    assert can_pack(fresh(tiny_model_dir)) and not can_pack(fresh(tiny_model_dir, attention="eager"))
    batches = plan(method)
    same(
        run(tiny_model_dir, tmp_path, method, batches),
        run(tiny_model_dir, tmp_path, method, batches, attention="eager"),
    )


def test_shared_beginnings_are_not_shared(tiny_model_dir, tmp_path, monkeypatch):
    batches = plan()
    rows = [*batches[0].forget, *batches[0].retain]
    shared = run(tiny_model_dir, tmp_path, "relearn", batches)
    assert pack(rows, "cpu").ids.numel() < sum(len(row.ids) for row in rows)
    monkeypatch.setattr(packing, "MIN_SHARED", 10**6)
    assert pack(rows, "cpu").ids.numel() == sum(len(row.ids) for row in rows)
    same(shared, run(tiny_model_dir, tmp_path, "relearn", batches))


def shares(batches: list[MicroBatch], accumulation: int, processes: int) -> list[list[MicroBatch]]:
    return [share(batches, accumulation, rank=rank, processes=processes) for rank in range(processes)]


def by_step(own: list[MicroBatch], each: int) -> list[list[MicroBatch]]:
    return [own[start : start + each] for start in range(0, len(own), each)]


def row_ids(batches: list[MicroBatch]) -> list[str]:
    return sorted(row.id for micro in batches if not micro.idle for rows in micro.streams().values() for row in rows)


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(1, 24), batch_size=st.integers(1, 6), accumulation=st.integers(1, 6), processes=st.integers(2, 6)
)
def test_the_shares_of_a_step_are_the_step(count, batch_size, accumulation, processes):
    """Every row of every step is in one share, pairs stay together, and all processes make equally many passes."""
    assume(can_share(batch_size, accumulation, processes))
    batches = plan("relearn_dpo_gdr", batch_size=batch_size, accumulation=accumulation, forget=FORGET[:count])
    each = own_accumulation(accumulation, processes)
    own = [by_step(part, each) for part in shares(batches, accumulation, processes)]
    steps = by_step(batches, accumulation)
    assert {len(part) for part in own} == {len(steps)}
    for number, step in enumerate(steps):
        parts = [part[number] for part in own]
        assert len({len(part) for part in parts}) == 1
        assert row_ids([micro for part in parts for micro in part]) == row_ids(step)
        for micro in (micro for part in parts for micro in part):
            assert micro.forget and micro.step == step[0].step
            assert [row.id for row in micro.paired["rejected"]] == [f"{row.id}-no" for row in micro.forget]


@pytest.mark.parametrize("batch_size, accumulation, processes", [(4, 1, 2), (2, 3, 2), (2, 2, 4)])
def test_one_process_that_does_all_shares_goes_the_same_way(
    tiny_model_dir, tmp_path, batch_size, accumulation, processes
):
    """21 rows: one batch has a single row, and the last step is short; idle micro-batches count for nothing."""
    batches = plan("relearn_dpo_gdr", batch_size=batch_size, accumulation=accumulation, forget=FORGET[:21])
    each = own_accumulation(accumulation, processes)
    own = [by_step(part, each) for part in shares(batches, accumulation, processes)]
    together = [micro for step in zip(*own, strict=True) for part in step for micro in part]
    assert any(micro.idle for micro in together)
    same(
        run(tiny_model_dir, tmp_path, "relearn_dpo_gdr", batches, accumulation=accumulation),
        run(tiny_model_dir, tmp_path, "relearn_dpo_gdr", together, accumulation=each * processes),
    )


@pytest.mark.parametrize("method, options", [("relearn", {}), ("rmu", {"layer": 0}), ("relearn_dpo_gdr", {})])
def test_recomputing_instead_of_keeping_gives_the_same_gradients(tiny_model_dir, method, options):
    """Gradient checkpointing: what attention is told about the rows must be told again when a layer is run again."""
    objective = METHODS.get(method).objective(options)
    micro = plan(method)[0]
    found = []
    for recompute in (False, True):
        model = fresh(tiny_model_dir)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).view_as(weight))
        reference = make_reference(model, [micro], objective)
        passes = count_layer_passes(model)
        if recompute:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
        model.train()
        loss, _ = objective(observe(model, micro, objective, reference))
        forward = len(passes)
        loss.backward()
        assert (len(passes) > forward) == recompute
        found.append({name: w.grad for name, w in model.named_parameters() if w.grad is not None})
    assert found[0].keys() == found[1].keys() and found[0]
    for name, slope in found[0].items():
        assert torch.allclose(slope, found[1][name], rtol=1e-5, atol=1e-7), name


def count_layer_passes(model) -> list[int]:
    """Grows by one with every pass through a layer's attention."""
    passes: list[int] = []
    for name, module in model.named_modules():
        if name.endswith("self_attn"):
            module.register_forward_pre_hook(lambda *_: passes.append(1))
    return passes
