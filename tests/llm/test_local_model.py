"""`transformers:` writes the same for a prompt in whatever batch it stands."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from relearn.core.config import Model
from relearn.llm import Prompt
from relearn.llm.local_model import LocalCompleter, _GumbelNoise


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    from relearn.models.load import load

    return load(Model(name=str(tiny_model_dir)))


def _prompts(temperature: float, seed: int = 0) -> list[Prompt]:
    texts = ["Where does she live?", "Hi", "When was the engineer born, and who are her parents? Tell me all.", "Who?"]
    return [
        Prompt(text, "vague", max_tokens=12 + at, temperature=temperature, seed=seed) for at, text in enumerate(texts)
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_batch_does_not_change_an_answer(loaded, temperature):
    prompts = _prompts(temperature)
    together = LocalCompleter(loaded, batch_size=4).complete(prompts)
    alone = [LocalCompleter(loaded, batch_size=1).complete([prompt])[0] for prompt in prompts]
    assert together == alone
    assert all(
        one.ok and 0 < one.output_tokens <= prompt.max_tokens for one, prompt in zip(together, prompts, strict=True)
    )
    assert len({one.input_tokens for one in together}) == 4


def test_sampling_follows_seed_and_attempt(loaded):
    prompt = replace(_prompts(1.0)[0], max_tokens=1)
    step = torch.zeros(1, 5, dtype=torch.long)
    flat = torch.zeros(1, 50)

    def noise(one: Prompt) -> list[float]:
        return _GumbelNoise([one], width=5)(step, flat)[0].tolist()

    assert noise(prompt) == noise(replace(prompt, max_tokens=9))
    assert len({tuple(noise(one)) for one in (prompt, replace(prompt, seed=1), replace(prompt, attempt=1))}) == 3


def test_noise_draws_from_the_softmax():
    """P(second token) = 1 / (1 + e^-1) = 0.731 at temperature 1 and 1 / (1 + e^-2) = 0.881 at temperature 0.5."""
    scores = torch.tensor([[0.0, 1.0]])
    for temperature, expected in ((1.0, 0.731), (0.5, 0.881)):
        prompts = [Prompt("a", "vague", temperature=temperature, seed=seed) for seed in range(3000)]
        chosen = _GumbelNoise(prompts, width=1)(torch.zeros(1, 1), scores.expand(3000, 2)).argmax(dim=1)
        assert chosen.float().mean().item() == pytest.approx(expected, abs=0.025)
