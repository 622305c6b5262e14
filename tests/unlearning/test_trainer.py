"""The training loop: resume, a reference that is the start model, a watch over the loss."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from relearn.core.errors import RunFailedError
from relearn.core.run_dir import read_json
from relearn.engine.forward import answer_logits
from relearn.unlearning.data.batches import Size
from relearn.unlearning.method import METHODS
from relearn.unlearning.reference_model import Reference
from relearn.unlearning.step import make_reference
from relearn.unlearning.trainer import StepLog
from unlearning.toy import FORGET, RETAIN, farthest, fresh, plan, trained, weights


def test_same_seed_same_weights_and_parts_are_logged(tiny_model_dir, tmp_path):
    first, logged = trained(fresh(tiny_model_dir), plan(), tmp_path)
    second, _ = trained(fresh(tiny_model_dir), plan(), tmp_path)
    assert farthest(first, second) == 0
    assert len(logged) == 6
    assert set(logged[0]["parts"]) == {"gdf", "gdr", "klr"}
    assert logged[0]["parts"]["klr"] == pytest.approx(0, abs=1e-5)
    assert logged[-1]["parts"]["klr"] > 1e-4
    assert logged[0]["loss"] == pytest.approx(sum(logged[0]["parts"].values()), abs=1e-3)
    assert sum(row["tokens"] for row in logged) == sum(batch.tokens for batch in plan())


class StopAt(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["relearn", "pdu"])
def test_resumed_equals_uninterrupted(tiny_model_dir, tmp_path, method):
    whole, _ = trained(fresh(tiny_model_dir), plan(), tmp_path / "a", method=method, rate=1e-3, runaway_loss=1e6)
    settings = {"method": method, "rate": 1e-3, "runaway_loss": 1e6, "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        trained(fresh(tiny_model_dir), plan(), tmp_path / "b", callbacks=[StopAt()], **settings)
    newest = sorted((tmp_path / "b" / "checkpoints").glob("checkpoint-*"))[-1]
    assert not list(newest.glob("training_args.bin"))
    if method == "pdu":
        assert read_json(newest / "objective.json")["steps"] == 2
    resumed, logged = trained(fresh(tiny_model_dir), plan(), tmp_path / "b", **settings)
    assert logged[0]["step"] == 3
    assert farthest(whole, resumed) == 0
    assert not (tmp_path / "b" / "checkpoints").exists()


def test_a_torn_checkpoint_is_not_resumed_from(tiny_model_dir, tmp_path):
    whole, _ = trained(fresh(tiny_model_dir), plan(), tmp_path / "a", checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        trained(fresh(tiny_model_dir), plan(), tmp_path / "b", checkpoint_every=2, callbacks=[StopAt()])
    torn = tmp_path / "b" / "checkpoints" / "checkpoint-5"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    resumed, _ = trained(fresh(tiny_model_dir), plan(), tmp_path / "b", checkpoint_every=2)
    assert farthest(whole, resumed) == 0


def test_a_checkpoint_is_complete_only_when_every_callback_has_put_its_part_into_it(tiny_model_dir, tmp_path):
    seen = []

    class Keeps(TrainerCallback):
        def on_save(self, args, state, control, **_):
            seen.append((tmp_path / "checkpoints" / f"checkpoint-{state.global_step}" / "complete").exists())

    trained(fresh(tiny_model_dir), plan(), tmp_path, checkpoint_every=2, callbacks=[Keeps()])
    assert seen == [False] * 3


def test_runaway_loss_stops_with_step_rows_and_way_out(tiny_model_dir, tmp_path):
    with pytest.raises(RunFailedError, match=r"loss is .* at step 1 \(rows f\d+.*lower unlearn.learning_rate"):
        trained(fresh(tiny_model_dir), plan(), tmp_path, runaway_loss=0.1)


def test_nan_loss_stops(tiny_model_dir, tmp_path):
    model = fresh(tiny_model_dir)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(RunFailedError, match="loss is nan at step 1"):
        trained(model, plan(), tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 9.0])
def test_the_rows_named_are_those_of_the_worst_micro_batch(bad):
    step = StepLog()
    for loss, batch in zip((1.0, bad, 2.0), plan(), strict=False):
        step.add(StepLog.of(batch, torch.tensor(loss), {"gdf": torch.tensor(loss)}))
    assert step.worst[1] == tuple(row.id for row in plan()[1].forget)
    assert step.tokens == sum(batch.tokens for batch in plan()[:3])


def test_only_the_adapter_gets_a_gradient(tiny_model_dir, tmp_path):
    model = fresh(tiny_model_dir)
    frozen = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    trained(model, plan(), tmp_path)
    assert frozen and all(
        torch.equal(weight, frozen[name]) for name, weight in model.named_parameters() if name in frozen
    )


def test_weights_above_the_layer_that_rmu_looks_at_are_not_trained(tiny_model_dir, tmp_path):
    """Data parallelism would wait for their gradients for ever."""
    model = fresh(tiny_model_dir)
    before = weights(model)
    after, _ = trained(model, plan("rmu"), tmp_path, method="rmu", options={"layer": 0})
    assert after and all(".layers.0." in name for name in after)
    # In layer 0 everything up to its end is trained; in layer 1 nothing.
    assert any(not torch.equal(after[name], before[name]) for name in after)
    later = {name: weight for name, weight in model.named_parameters() if ".layers.1." in name and "lora" in name}
    assert all(torch.equal(weight, before[name]) for name, weight in later.items())


def test_reference_is_the_start_model_and_is_run_once_per_row(tiny_model_dir):
    """Trap 9: no second model; the adapter is switched off instead, and rows asked again cost no forward."""
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    model = fresh(tiny_model_dir)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    reference = Reference(model, RETAIN)
    assert reference.exact
    model.forward = None  # a second forward would now fail
    for asked in (RETAIN[:4], [RETAIN[2], RETAIN[0]]):
        tokens = sum(row.answer_tokens for row in asked)
        said = reference.answer_logits(asked, Size(tokens, len(asked)))
        assert torch.allclose(said.logits_chunk(0, tokens), answer_logits(start, asked), atol=1e-4)


def test_full_fine_tuning_keeps_the_start_as_reference(tiny_model_dir, tmp_path):
    _, logged = trained(fresh(tiny_model_dir, lora=False), plan(), tmp_path)
    assert logged[0]["parts"]["klr"] == pytest.approx(0, abs=1e-4)
    assert logged[-1]["parts"]["klr"] > 1e-3


def test_full_fine_tuning_keeps_the_start_whatever_it_takes(tiny_model_dir, monkeypatch):
    """A bound on memory must not end in the model in training standing in for its start."""
    monkeypatch.setattr("relearn.unlearning.reference_model._CACHE_BYTES", 0)
    model = fresh(tiny_model_dir, lora=False)
    reference = make_reference(model, plan(), METHODS.get("relearn").objective({}))
    size = Size(FORGET[0].answer_tokens, 1)
    retained = [plan()[0].retain[0]]
    before = reference.answer_logits(retained, size).logits_chunk(0, 3).clone()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1)
    assert torch.equal(reference.answer_logits(retained, size).logits_chunk(0, 3), before)
