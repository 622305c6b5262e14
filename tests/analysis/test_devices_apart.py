"""Nothing is made on whatever device happens to be the default: what meets the model's tensors is made where they are.

There need be no GPU for that. The default is set to "meta", whose tensors are empty and do not mix with others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from learning_dynamics import descent, logprobs, moved, predicted, runners_up

from analysis.test_inside import ROW, model
from analysis.test_tuned import QUICK, text
from relearn.analysis.circuits import extract_circuit, information_flow
from relearn.analysis.hooks import HookedModel
from relearn.analysis.logit_lens import lens, top_tokens
from relearn.analysis.measurements import patch_each_layer
from relearn.analysis.training_dynamics import alignment
from relearn.analysis.tuned_lens import Translators, fit
from relearn.audits.attacks.weights import quantise
from relearn.core.config import Generate, Model
from relearn.engine.forward import answer_logprobs, answer_scores, predict
from relearn.engine.generate import generate
from relearn.models.load import load
from relearn.unlearning.data.batches import Size
from relearn.unlearning.masks.mask import MASKS
from relearn.unlearning.method import METHODS
from relearn.unlearning.reference_model import to_answer_logits
from relearn.unlearning.step import make_reference, step_loss
from unlearning.toy import fresh, plan


@contextmanager
def elsewhere() -> Iterator[None]:
    before = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(before)


def test_the_trick_shows_a_tensor_made_in_the_wrong_place():
    with elsewhere(), pytest.raises(RuntimeError):
        float((torch.ones(2, device="cpu") + torch.tensor([1.0, 2.0])).sum())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_looking_inside(kind):
    whole, rows = model(kind), text(12)
    with elsewhere():
        inside = HookedModel(whole)
        states = inside.states(ROW.ids)
        assert lens(inside, ROW, Translators.identity(3, 16)).kl.device.type == "cpu"
        assert top_tokens(inside, ROW)[0].probability > 0
        assert len(patch_each_layer(inside, ROW, states)) == 4
        assert fit(inside, rows, QUICK)[0].change.device.type == "cpu"
        if kind == "llama":
            assert extract_circuit(information_flow(inside, ROW.ids), [3, 4], 0.0)


def test_a_step_told_beforehand():
    whole = model("llama")
    whole.set_attn_implementation("eager")
    with elsewhere():
        others = runners_up(whole, ROW)
        loss = -logprobs_loss(whole)
        direction = descent(whole, loss)
        told = predicted(whole, ROW, others, direction)
        with moved(whole, direction, 1e-3):
            assert logprobs(whole, ROW, others).shape == told.shape


def test_every_objective_and_mask(tiny_model_dir):
    for name in ("ga", "grad_diff", "npo_gdr", "simnpo", "relearn", "idk_dpo", "ceu", "rmu", "undial"):
        network, batches = fresh(tiny_model_dir), plan(name)[:2]
        options = {"layer": 1} if name == "rmu" else {}
        objective = METHODS.get(name).objective(options)
        with elsewhere():
            reference = make_reference(network, batches, objective)
            loss, _ = step_loss(network, batches[0], objective, reference)
            loss.backward()
        assert loss.isfinite()
    for name in ("sure", "memflex"):
        network, batches = fresh(tiny_model_dir), plan("grad_diff")
        with elsewhere():
            assert MASKS.get(name)().find(network, batches, start=True)


def test_gradients_of_terms_that_are_not_there(tiny_model_dir):
    network, batches = fresh(tiny_model_dir).eval(), plan("grad_diff")[:1]
    objective = METHODS.get("ga").objective({})
    with elsewhere():
        assert alignment(network, objective, batches, make_reference(network, batches, objective))["cosine"] is None


def test_scoring_and_rounded_weights():
    network = model("llama")
    with elsewhere():
        quantise(network, 4)
        assert answer_logprobs(network, [ROW, ROW])[0].isfinite().all()
        assert answer_scores(network, [ROW])[0].mean.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_answers_greedy_and_drawn(tiny_model_dir, temperature):
    loaded = load(Model(name=str(tiny_model_dir), device="cpu", dtype="float32"))
    settings = Generate(max_new_tokens=4, temperature=temperature)
    with elsewhere():
        assert len(generate(loaded, ["Who?", "When was she born?"], settings)) == 2


def logprobs_loss(network) -> torch.Tensor:
    return to_answer_logits(predict(network, [ROW]), [ROW], Size(3, 1)).mean_nll()
