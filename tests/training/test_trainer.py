"""The training loop: equal trajectories, resume, a reference that is the start model, a watch over the loss."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from relearn.config import Lora
from relearn.errors import RunFailedError
from relearn.models.forward import TokenRow, answer_logits
from relearn.models.lora import add_lora
from relearn.objectives.base import METHODS
from relearn.tokens.batches import plan_batches
from relearn.training.reference import Reference
from relearn.training.trainer import Loop, train
from tiny import VOCABULARY

LORA = Lora(r=4, alpha=8, dropout=0.0)


def rows(prefix: str, count: int, seed: int) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(6, 20, (count,), generator=generator).tolist()
    return [
        TokenRow(f"{prefix}{n}", tuple(torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()), 3)
        for n, length in enumerate(lengths)
    ]


FORGET, RETAIN = rows("f", 24, 1), rows("r", 10, 2)


def fresh(tiny_model_dir, lora: bool = True):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.requires_grad_(not lora)
    return add_lora(model, LORA, seed=0) if lora else model


def trained(tiny_model_dir, tmp_path, *, batch_size=4, accumulation=1, callbacks=(), model=None, **loop):
    model = model or fresh(tiny_model_dir)
    plan = plan_batches(FORGET, RETAIN, batch_size=batch_size, accumulation=accumulation, epochs=1, seed=0)
    logged: list[dict] = []
    train(
        model, plan, METHODS.get("relearn").objective({}), Loop(1e-2, accumulation, **loop),
        checkpoints=tmp_path / "checkpoints", log=lambda **row: logged.append(row), callbacks=callbacks,
    )  # fmt: skip
    return weights(model), logged


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def farthest(one, other) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_same_seed_same_weights_and_parts_are_logged(tiny_model_dir, tmp_path):
    first, logged = trained(tiny_model_dir, tmp_path)
    second, _ = trained(tiny_model_dir, tmp_path)
    assert farthest(first, second) == 0
    assert len(logged) == 6
    assert set(logged[0]["parts"]) == {"gdf", "gdr", "klr"}
    assert logged[0]["parts"]["klr"] == pytest.approx(0, abs=1e-5)
    assert logged[-1]["parts"]["klr"] > 1e-4
    assert logged[0]["loss"] == pytest.approx(sum(logged[0]["parts"].values()), abs=1e-3)


def test_accumulation_equals_a_larger_batch(tiny_model_dir, tmp_path):
    """A token mean over the optimiser step: 2 rows x 4 is the same step as 8 rows, when the rows are the same."""
    big = plan_batches(FORGET, RETAIN, batch_size=8, accumulation=1, epochs=1, seed=0)
    small = []
    for micro in big:
        for at in range(0, 8, 2):
            cut = slice(at, at + 2)
            small.append(
                type(micro)(micro.forget[cut], micro.retain[cut], micro.step_forget_tokens, micro.step_retain_tokens)
            )
    found = []
    for plan, accumulation in ((big, 1), (small, 4)):
        model = fresh(tiny_model_dir)
        train(
            model, plan, METHODS.get("relearn").objective({}), Loop(1e-3, accumulation), log=lambda **_: None,
            checkpoints=tmp_path / "checkpoints",
        )  # fmt: skip
        found.append(weights(model))
    assert farthest(*found) < 2e-5


class StopAt(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 4:
            raise KeyboardInterrupt


def test_resumed_equals_uninterrupted(tiny_model_dir, tmp_path):
    whole, _ = trained(tiny_model_dir, tmp_path / "a", checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_model_dir, tmp_path / "b", checkpoint_every=2, callbacks=[StopAt()])
    newest = sorted((tmp_path / "b" / "checkpoints").glob("checkpoint-*"))[-1]
    assert not list(newest.glob("training_args.bin"))
    resumed, logged = trained(tiny_model_dir, tmp_path / "b", checkpoint_every=2)
    assert logged[0]["step"] == 3 or logged[0]["step"] == 5
    assert farthest(whole, resumed) == 0
    assert not (tmp_path / "b" / "checkpoints").exists()


def test_a_torn_checkpoint_is_not_resumed_from(tiny_model_dir, tmp_path):
    whole, _ = trained(tiny_model_dir, tmp_path / "a", checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_model_dir, tmp_path / "b", checkpoint_every=2, callbacks=[StopAt()])
    folder = tmp_path / "b" / "checkpoints"
    torn = folder / "checkpoint-5"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    resumed, _ = trained(tiny_model_dir, tmp_path / "b", checkpoint_every=2)
    assert farthest(whole, resumed) == 0


def test_runaway_loss_stops_with_step_rows_and_way_out(tiny_model_dir, tmp_path):
    with pytest.raises(RunFailedError, match=r"loss is .* at step 1 \(rows f\d+.*lower unlearn.learning_rate"):
        trained(tiny_model_dir, tmp_path, runaway_loss=0.1)


def test_nan_loss_stops(tiny_model_dir, tmp_path):
    model = fresh(tiny_model_dir)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(RunFailedError, match="loss is nan at step 1"):
        trained(tiny_model_dir, tmp_path, model=model)


def test_only_the_adapter_gets_a_gradient(tiny_model_dir, tmp_path):
    model = fresh(tiny_model_dir)
    frozen = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    trained(tiny_model_dir, tmp_path, model=model)
    assert frozen and all(
        torch.equal(weight, frozen[name]) for name, weight in model.named_parameters() if name in frozen
    )


def test_reference_is_the_start_model_and_is_run_once_per_row(tiny_model_dir):
    """Trap 9: no second model; the adapter is switched off instead, and rows asked again cost no forward."""
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    model = fresh(tiny_model_dir)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    reference = Reference(model, RETAIN)
    expected = answer_logits(start, RETAIN[:4])
    assert torch.allclose(reference.logits(RETAIN[:4]), expected, atol=1e-4)
    assert reference.exact
    model.forward = None  # a second forward would now fail
    mixed = [RETAIN[2], RETAIN[0]]
    assert torch.allclose(reference.logits(mixed), answer_logits(start, mixed), atol=1e-4)


def test_full_fine_tuning_keeps_the_start_as_reference(tiny_model_dir, tmp_path):
    model = fresh(tiny_model_dir, lora=False)
    _, logged = trained(tiny_model_dir, tmp_path, model=model)
    assert logged[0]["parts"]["klr"] == pytest.approx(0, abs=1e-4)
    assert logged[-1]["parts"]["klr"] > 1e-3
