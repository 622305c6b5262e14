"""RMU: its fixed direction, its two terms by hand and written differently, and which positions are meant."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import mse_loss

from relearn.core.errors import InputError
from relearn.engine.forward import TokenRow, predict
from relearn.unlearning.check_method import draw, gradients
from relearn.unlearning.data.batches import plan_batches
from relearn.unlearning.losses.rmu import direction
from relearn.unlearning.method import METHODS, Batch
from relearn.unlearning.token_loss import AnswerLogits
from relearn.unlearning.trainer import Loop, train
from tiny import tiny_model
from unlearning.toy import rows

RMU = METHODS.get("rmu")


def rows_of(tokens: int, step_tokens: int | None = None) -> AnswerLogits:
    """`tokens` answer tokens of one row; RMU looks at nothing but their number."""
    return AnswerLogits(
        torch.zeros(tokens, 2),
        torch.zeros(tokens, dtype=torch.long),
        torch.zeros(tokens, dtype=torch.long),
        1,
        step_tokens or tokens,
    )


def test_what_it_is_made_of():
    states = {"forget_states", "retain_states", "retain_states_reference"}
    assert (RMU.family, RMU.data, RMU.procedure) == ("representation", "original", "train")
    assert RMU.objective({}).needs == {"forget", "retain"} | states
    assert RMU.objective({"alpha": 0}).needs == {"forget", "forget_states"}
    objective = RMU.objective({"layer": -3})
    assert objective.layer == -3 and objective == RMU.objective(
        {"layer": -3, "coefficient": 2.0, "alpha": 1.0, "seed": 0}
    )


def test_rmu_by_hand():
    """Width 2, u = (x, y) of length 1, c 3: ||h - 3u||^2 = ||h||^2 - 6 h.u + 9; halved, the mean over the width.

    Forget tokens (0, 0) and (2, 1): 9/2 and (5 - 6(2x + y) + 9)/2. Retain moved by (3, 4): 25/2.
    """
    x, y = direction(2, 0).tolist()
    batch = Batch(
        rows_of(2),
        rows_of(1),
        forget_states=torch.tensor([[0.0, 0.0], [2.0, 1.0]]),
        retain_states=torch.tensor([[4.0, 5.0]]),
        retain_states_reference=torch.tensor([[1.0, 1.0]]),
    )
    forget = (9 / 2 + (14 - 6 * (2 * x + y)) / 2) / 2
    loss, parts = RMU.objective({"coefficient": 3, "alpha": 2})(batch)
    assert {name: float(value) for name, value in parts.items()} == {
        "misdirection": pytest.approx(forget, rel=1e-6),
        "drift": pytest.approx(12.5),
    }
    assert float(loss) == pytest.approx(forget + 25, rel=1e-6)
    assert float(RMU.objective({"coefficient": 3, "alpha": 0})(batch)[0]) == pytest.approx(forget, rel=1e-6)


def test_the_means_are_over_the_tokens_of_the_step():
    """One forget token of four at rest: c^2 / width / 4; one retain token of five moved by (1, 1): 1 / 5."""
    batch = Batch(
        rows_of(1, step_tokens=4),
        rows_of(1, step_tokens=5),
        forget_states=torch.zeros(1, 2),
        retain_states=torch.ones(1, 2),
        retain_states_reference=torch.zeros(1, 2),
    )
    _, parts = RMU.objective({})(batch)
    assert float(parts["misdirection"]) == pytest.approx(2**2 / 2 / 4)
    assert float(parts["drift"]) == pytest.approx(1 / 5)


def test_an_independent_implementation_agrees():
    objective = RMU.objective({"coefficient": 6.5, "alpha": 12.0, "seed": 9})
    step = draw(objective, seed=2)
    loss, _ = objective(step.batch())
    forget, retain = step.trained["forget_states"], step.trained["retain_states"]
    drawn = torch.rand(forget.shape[1], generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    aim = (6.5 * drawn / drawn.square().sum().sqrt()).expand_as(forget)
    expected = mse_loss(forget, aim) + 12.0 * mse_loss(retain, step.fixed["retain_states_reference"])
    assert torch.allclose(loss, expected, rtol=1e-12)
    own, other = gradients(step, loss), gradients(step, expected)
    for name in ("forget_states", "retain_states"):
        assert torch.allclose(own[name], other[name], rtol=1e-10) and own[name].abs().sum() > 0


def test_micro_batches_add_up_to_the_step():
    objective = RMU.objective({})
    step = draw(objective, seed=4)
    parts = [objective(step.batch((0,), (1, 2)))[0], objective(step.batch((2, 1), (0,)))[0]]
    assert torch.allclose(parts[0] + parts[1], objective(step.batch())[0], rtol=1e-12)


def test_the_direction_is_of_length_one_drawn_from_the_positive_and_fixed_by_the_seed():
    u = direction(4096, 0)
    assert float(u.norm()) == pytest.approx(1.0)
    assert bool((u >= 0).all())
    # U[0,1): mean 1/2 and root mean square 1/sqrt(3), so their ratio is sqrt(3)/2.
    assert float(u.mean() / u.square().mean().sqrt()) == pytest.approx(math.sqrt(3) / 2, abs=0.01)
    torch.rand(3)  # the global generator has no say
    direction.cache_clear()
    assert torch.equal(direction(4096, 0), u) and not torch.equal(direction(4096, 1), u)


def test_half_precision_states_are_squared_in_float32():
    """600 squared overflows float16."""
    half = torch.full((1, 2), 600.0, dtype=torch.float16)
    loss, _ = RMU.objective({"alpha": 0})(Batch(rows_of(1), forget_states=half))
    x, y = direction(2, 0).tolist()
    expected = (2 * 600**2 - 2 * 2 * 600 * (x + y) + 4) / 2
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_states_are_those_of_the_positions_that_predict_the_answer(tiny_model_dir):
    """From the last token of the prompt to the last but one of the answer, after decoder layer 0."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    rows = [TokenRow("a", (5, 6, 7, 8, 9, 10), 4), TokenRow("b", (11, 12, 13, 14), 1)]
    with torch.no_grad():
        seen = predict(model, rows, layer=-2).layer
        expected = []
        for row in rows:
            hidden = model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states[1][0]
            expected.append(hidden[row.answer_start - 1 : len(row.ids) - 1])
    assert seen is not None and seen.shape == (2 + 3, 32)
    assert torch.allclose(seen, torch.cat(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": 3.5}, "layer is 3.5: give the number of a decoder layer"),
        ({"layer": True}, "layer is True"),
        ({"alpha": -1}, "alpha is -1: give a number of 0 or more"),
        ({"coefficient": 0}, "coefficient is 0: give a number above 0"),
    ],
)
def test_impossible_options_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        RMU.objective(options)


def test_full_fine_tuning_needs_no_kept_logits(tmp_path):
    """Gemma-2 caps its logits, so its start model cannot be kept; RMU takes the states of a layer alone."""
    kept = rows("r", 4, 2)
    batches = plan_batches(rows("f", 4, 1), kept, batch_size=2, accumulation=1, epochs=1, seed=0)

    def run(name, options):
        model = tiny_model("Gemma2")
        train(
            model,
            batches,
            METHODS.get(name).objective(options),
            loop=Loop(1e-3),
            checkpoints=tmp_path / name,
            log=lambda **_: None,
        )
        return model

    start, moved = tiny_model("Gemma2"), run("rmu", {"layer": 0})
    changed = {name for name, weight in start.named_parameters() if (weight != moved.get_parameter(name)).any()}
    assert any("layers.0" in name for name in changed) and not any("layers.1" in name for name in changed)
    with pytest.raises(InputError, match="its start cannot be kept"):
        run("grad_diff", {"retain_kl": 1.0})
