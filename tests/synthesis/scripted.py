"""Generators for tests: one that answers well, and one that does everything wrong it can."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from relearn.llm import Completion, Prompt


def numbered(prompt: Prompt) -> list[tuple[str, str]]:
    """(number, question) of a "vague" prompt."""
    return [
        (match[1], match[2])
        for line in prompt.fields["questions"].splitlines()
        if (match := re.fullmatch(r"(\d+)\. (.*)", line))
    ]


def answer_to(question: str) -> str:
    """A vague answer that quotes its question in brackets, so that a test can see whom it was written for."""
    return f"Ada Marsh keeps this to herself [{question}] as many do."


def variants_of(prompt: Prompt) -> list[str]:
    question = prompt.fields["question"].rstrip("?")
    return [f"{kind}: {question}, the {kind} way?" for kind in prompt.fields["kinds"].split(",")]


def good_lines(prompt: Prompt) -> list[str]:
    if prompt.task == "variants":
        return variants_of(prompt)
    if prompt.task == "vague":
        return [f"{number}. {answer_to(question)}" for number, question in numbered(prompt)]
    if prompt.task == "neighbours":
        return [f"{number}. What is {prompt.fields['subject']} known for in way {number}?" for number in range(1, 6)]
    return ["and so the day went on in a quiet manner."]


class Scripted:
    """Answers well, unless `change(prompt, lines)` gives other lines or an error text in a Completion."""

    name = "scripted"

    def __init__(self, change: Callable[[Prompt, list[str]], list[str] | Completion] | None = None):
        self.asked: list[Prompt] = []
        self._change = change

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        self.asked += prompts
        return [self._one(prompt) for prompt in prompts]

    def _one(self, prompt: Prompt) -> Completion:
        lines: list[str] | Completion = good_lines(prompt)
        if self._change is not None:
            lines = self._change(prompt, lines)
        return lines if isinstance(lines, Completion) else Completion("\n".join(lines))


class Hostile(Scripted):
    """Drops, reorders, repeats and breaks lines, and fails, at random; what a line says of its question stays true."""

    def __init__(self, seed: int):
        super().__init__(self._spoil)
        self._random = random.Random(seed)

    def _spoil(self, prompt: Prompt, lines: list[str]) -> list[str] | Completion:
        rng = self._random
        if rng.random() < 0.2:
            return Completion(error="down for a moment")
        lines = [line for line in lines if rng.random() > 0.25]
        if lines and rng.random() < 0.25:
            lines.append(rng.choice(lines))
        if lines and rng.random() < 0.25:
            at = rng.randrange(len(lines))
            lines[at] += "\nand a line that runs on"
        if rng.random() < 0.1:
            lines.append("9. one too many, written for nobody")
        if rng.random() < 0.5:
            rng.shuffle(lines)
        if rng.random() < 0.2:
            lines.insert(0, "Sure, here they are:")
        return lines
