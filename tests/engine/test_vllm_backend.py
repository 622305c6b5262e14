"""What vLLM is given, and what is made of its answers; the engine itself is a stand-in that runs the saved folder."""

from __future__ import annotations

import importlib.machinery
import sys
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from relearn.core.config import Generate, Lora, Model
from relearn.core.errors import InputError, MissingPartError
from relearn.engine import vllm_backend
from relearn.engine.generate import generate
from relearn.models.load import load
from relearn.models.lora import add_lora
from relearn.unlearning.inference_time.offset import Ensemble

QUESTIONS = ["Who is she?", "When was the engineer born, and who are her parents?", "What street?"]
HERE = Generate(max_new_tokens=10)
THERE = HERE.model_copy(update={"backend": "vllm"})


@pytest.fixture
def adapted(tiny_model_dir):
    loaded = load(Model(name=str(tiny_model_dir)))
    model = add_lora(loaded.model, Lora(r=4, dropout=0.0), seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(std=0.3)
    return replace(loaded, model=model.eval())


@dataclass
class StandIn:
    """Counts engines and keeps what they were asked."""

    engines: list = field(default_factory=list)
    asked: list = field(default_factory=list)

    def module(self) -> ModuleType:
        stand_in = self

        class LLM:
            def __init__(self, model, **options):
                self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, options["dtype"])).eval()
                assert AutoTokenizer.from_pretrained(model).vocab_size
                stand_in.engines.append(options)

            def generate(self, prompts, params, use_tqdm):
                stand_in.asked.append(params)
                return [
                    self._one(prompt["prompt_token_ids"], asked) for prompt, asked in zip(prompts, params, strict=True)
                ]

            def _one(self, prompt, asked):
                ids = torch.tensor([prompt])
                said = self.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    pad_token_id=0,
                    max_new_tokens=asked.max_tokens,
                    eos_token_id=asked.stop_token_ids,
                )[0, len(prompt) :]
                return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(said.tolist()))])

        module = ModuleType("vllm")
        module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
        module.LLM, module.SamplingParams = LLM, lambda **options: SimpleNamespace(**options)
        return module


@pytest.fixture
def stand_in(monkeypatch):
    found = StandIn()
    monkeypatch.setitem(sys.modules, "vllm", found.module())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60, 80))
    return found


def test_the_weights_handed_over_hold_the_adapter(adapted, tiny_model_dir):
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    before = {name: weight.clone() for name, weight in adapted.model.state_dict().items()}
    weights = vllm_backend.merged_weights(adapted.model)
    assert set(weights) == set(plain.state_dict())
    plain.load_state_dict(weights)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, adapted.model(ids).logits, atol=1e-5)
    assert all(torch.equal(before[name], weight) for name, weight in adapted.model.state_dict().items())
    with adapted.model.disable_adapter():
        original = vllm_backend.merged_weights(adapted.model)
    assert not torch.equal(original["model.layers.0.mlp.up_proj.weight"], weights["model.layers.0.mlp.up_proj.weight"])


def test_its_answers_are_the_models(adapted, stand_in):
    assert generate(adapted, QUESTIONS, THERE) == generate(adapted, QUESTIONS, HERE)
    (options,) = stand_in.engines
    assert options["gpu_memory_utilization"] == 0.5 * 60 / 80 and options["max_model_len"] == 2048
    assert options["dtype"] == "float32" and "max_num_seqs" not in options
    asked = stand_in.asked[0][0]
    assert (asked.temperature, asked.top_p, asked.top_k, asked.max_tokens) == (0.0, 1.0, -1, 10)
    assert len({params.seed for params in stand_in.asked[0]}) == 3


def test_one_engine_until_the_weights_change(adapted, stand_in):
    generate(adapted, QUESTIONS, THERE)
    said = generate(adapted, QUESTIONS, THERE)
    assert len(stand_in.engines) == 1
    with adapted.model.disable_adapter():
        assert generate(adapted, QUESTIONS, THERE) == generate(adapted, QUESTIONS, HERE) != said
    assert len(stand_in.engines) == 2
    with torch.no_grad():
        next(adapted.model.parameters()).mul_(-1)
    generate(adapted, QUESTIONS, THERE)
    assert len(stand_in.engines) == 3
    assert generate(adapted, [], THERE) == []


def test_what_is_missing_is_said(adapted, monkeypatch):
    with pytest.raises(InputError, match="vLLM needs a CUDA GPU"):
        generate(adapted, QUESTIONS, THERE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(MissingPartError, match="vllm is not installed"):
        generate(adapted, QUESTIONS, THERE)


def test_an_ensemble_is_no_set_of_weights(adapted, tiny_model_dir, stand_in):
    large = load(Model(name=str(tiny_model_dir), device="cpu", dtype="float32"))
    both = replace(large, model=Ensemble(large.model, adapted.model, 1.0))
    with pytest.raises(InputError, match="changes none"):
        generate(both, QUESTIONS, THERE)
