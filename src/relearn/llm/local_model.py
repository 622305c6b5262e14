"""Complete prompts with a transformers model in this process (`transformers:MODEL`), in batches of similar length.

Sampling adds Gumbel noise to the logits and takes the maximum (Gumbel-max trick). This samples from the softmax of the
top SAMPLED_TOKENS tokens. The noise depends only on the prompt, so a completion does not depend on its batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from relearn.core import config
from relearn.llm.completer import Completion, Prompt, drop_truncated_sentence
from relearn.llm.generators import GENERATORS, Generator
from relearn.llm.templates.generator import Templates
from relearn.models.chat import opened_thought, without_thoughts

SAMPLED_TOKENS = 64


class LocalCompleter:
    """Complete prompts with a loaded model (models.load.Loaded) and its chat template; temperature 0 is greedy."""

    def __init__(self, loaded: Any, batch_size: int = 8):
        self.name = f"transformers:{loaded.name}"
        self.batch_size = batch_size
        self._loaded = loaded

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        answers = dict(self.stream(prompts))
        return [answers[number] for number in range(len(prompts))]

    def stream(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Yield (position, completion), ordered by max_tokens, then by prompt length."""
        ordered = sorted(enumerate(prompts), key=lambda entry: (entry[1].max_tokens, len(entry[1].text), entry[0]))
        for start in range(0, len(ordered), self.batch_size):
            batch = ordered[start : start + self.batch_size]
            completions = self._generate([prompt for _, prompt in batch])
            yield from zip((number for number, _ in batch), completions, strict=True)

    def _generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        from relearn.engine.generate import plain_generate, stop_ids

        loaded = self._loaded
        texts = [loaded.chat.prompt(prompt.text, "chat") for prompt in prompts]
        batch = loaded.tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left")
        width, stops = len(batch["input_ids"][0]), stop_ids(loaded)
        output = plain_generate(
            loaded,
            batch["input_ids"],
            batch["attention_mask"],
            max_new_tokens=max(prompt.max_tokens for prompt in prompts),
            processors=[_GumbelNoise(prompts, width)],
        )
        return [
            self._completion(row, prompt, input_tokens=sum(mask), stops=stops, opened=opened_thought(text))
            for row, mask, prompt, text in zip(
                output[:, width:].tolist(), batch["attention_mask"], prompts, texts, strict=True
            )
        ]

    def _completion(
        self, ids: list[int], prompt: Prompt, *, input_tokens: int, stops: list[int], opened: str
    ) -> Completion:
        ids = ids[: prompt.max_tokens]
        end = next((position for position, token in enumerate(ids) if token in stops), None)
        text = without_thoughts(self._loaded.tokenizer, ids[:end], opened=opened)[0]
        if end is None:
            text = drop_truncated_sentence(text)
        return Completion(text, input_tokens=input_tokens, output_tokens=len(ids) if end is None else end + 1)


class _GumbelNoise:
    """Apply top-k sampling (k = SAMPLED_TOKENS) as a logits processor whose arg max is the sampled token.

    Divides the logits of a row by its temperature, adds Gumbel noise seeded by (prompt, step), and masks other tokens.
    """

    def __init__(self, prompts: Sequence[Prompt], width: int):
        self._temperatures = [prompt.temperature for prompt in prompts]
        self._seeds = [_seed_of(prompt) for prompt in prompts]
        self._width = width

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        step = input_ids.shape[1] - self._width
        best = scores.float().topk(min(SAMPLED_TOKENS, scores.shape[1]), dim=1)
        noisy = scores.clone()
        for row, (temperature, seed) in enumerate(zip(self._temperatures, self._seeds, strict=True)):
            if temperature > 0:
                random = torch.Generator("cpu").manual_seed((seed + step) % 2**63)
                uniform = torch.rand(best.values.shape[1], generator=random, dtype=torch.float64, device="cpu")
                gumbel = (-torch.log(-torch.log(uniform.clamp_min(1e-300)))).to(best.values)
                noisy[row] = float("-inf")
                noisy[row, best.indices[row]] = (best.values[row] / temperature + gumbel).to(scores.dtype)
        return noisy


def _seed_of(prompt: Prompt) -> int:
    digest = hashlib.sha256(f"{prompt.seed}:{prompt.attempt}:{prompt.text}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


class StartModel:
    """Complete the tasks "vague" and "continue" with the start model of a run, and all others with the templates."""

    def __init__(self, loaded: Any, batch_size: int = 8):
        self.name = f"self/1:{loaded.name if loaded is not None else ''}"
        self._model = None if loaded is None else LocalCompleter(loaded, batch_size)
        self._templates = Templates()

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        answers = dict(self.stream(prompts))
        return [answers[number] for number in range(len(prompts))]

    def stream(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Yield (position, completion), those of the templates first."""
        own: list[tuple[int, Prompt]] = []
        for number, prompt in enumerate(prompts):
            if prompt.task in ("vague", "continue"):
                own.append((number, prompt))
            else:
                yield number, self._templates.complete([prompt])[0]
        if self._model is None:
            yield from ((number, Completion(error="the generator self has no start model here")) for number, _ in own)
            return
        for at, completion in self._model.stream([prompt for _, prompt in own]):
            yield own[at][0], completion


def _make(model: str, settings: config.Synthesis, loaded: Any) -> LocalCompleter:
    if loaded is None or loaded.name != model:
        from relearn.models.load import load

        loaded = load(config.Model(name=model))
    return LocalCompleter(loaded, settings.concurrency)


GENERATORS.add("transformers", Generator(make=_make, about="transformers:MODEL, a model in this process, in batches"))
GENERATORS.add(
    "self",
    Generator(
        make=lambda model, settings, loaded: StartModel(loaded, settings.concurrency),
        takes_model=False,
        about="self, the start model of the run; templates write what fails the checks",
    ),
)
