"""Multiple choice: what a model thinks of the letter and of the text of every choice, in the layouts of the field.

By letter (MMLU, WMDP; lm-eval's default for both), the answer being " A", " B", ...:

    The following are multiple choice questions (with answers) about SUBJECT.

    QUESTION
    A. first
    B. second
    Answer:

By text (lm-eval's continuation form): "Question: QUESTION\\nAnswer:", the answer being " first", " second", ...

Solved questions may stand in front as examples. No chat template, as in the figures that are published. Choices of one
question share its prompt, which is computed once (`engine/packing.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from relearn.data import Record
from relearn.data.multiple_choice import LETTERS
from relearn.engine.forward import answer_logprobs
from relearn.models.load import Loaded
from relearn.unlearning.data.encode import Example, encode

_DIGITS = 5
# Stands for an impossible choice, whose log-probability no JSON can hold.
_IMPOSSIBLE = -10_000.0


Chances = tuple[float, ...] | None


@dataclass(frozen=True)
class ChoiceQuestion:
    """`right`: the place of the right choice; `about` stands in the heading; `shots` are solved questions in front."""

    question: str
    choices: tuple[str, ...]
    right: int
    about: str = ""
    shots: tuple[ChoiceQuestion, ...] = ()


def lettered(asked: ChoiceQuestion) -> str:
    """The prompt whose answer is " A", " B", ..."""
    about = f" about {asked.about}" if asked.about else ""
    solved = "".join(f"{_listed(shot)} {LETTERS[shot.right]}\n\n" for shot in asked.shots)
    return f"The following are multiple choice questions (with answers){about}.\n\n{solved}{_listed(asked)}"


def spelled(asked: ChoiceQuestion) -> str:
    """The prompt whose answer is " " and the text of a choice."""
    solved = "".join(f"{_plain(shot)} {shot.choices[shot.right]}\n\n" for shot in asked.shots)
    return solved + _plain(asked)


def _listed(asked: ChoiceQuestion) -> str:
    choices = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, asked.choices, strict=False))
    return f"{asked.question.strip()}\n{choices}\nAnswer:"


def _plain(asked: ChoiceQuestion) -> str:
    return f"Question: {asked.question.strip()}\nAnswer:"


def letter_logprobs(loaded: Loaded, asked: Sequence[ChoiceQuestion], *, tick: Any = None) -> list[Chances]:
    """For every question the log-probability of each choice's letter, summed over its tokens; None where it is none."""
    return _logprobs(loaded, asked, lettered, lambda question: LETTERS[: len(question.choices)], tick)


def text_logprobs(loaded: Loaded, asked: Sequence[ChoiceQuestion], *, tick: Any = None) -> list[Chances]:
    """For every question the log-probability of each choice's text, summed over its tokens; None where it is none."""
    return _logprobs(loaded, asked, spelled, lambda question: question.choices, tick)


def _logprobs(
    loaded: Loaded,
    asked: Sequence[ChoiceQuestion],
    prompt: Callable[[ChoiceQuestion], str],
    answers: Callable[[ChoiceQuestion], Sequence[str]],
    tick: Any,
) -> list[Chances]:
    examples = [
        Example(f"{number}/{place}", prompt(question), answer, "text", closed=False)
        for number, question in enumerate(asked)
        for place, answer in enumerate(answers(question))
    ]
    found = iter(answer_logprobs(loaded.model, encode(loaded.chat, examples), tick=tick))
    sums = [[float(next(found).sum()) for _ in question.choices] for question in asked]
    return [
        None if any(map(isnan, own)) else tuple(round(max(one, _IMPOSSIBLE), _DIGITS) for one in own) for own in sums
    ]


def choice_columns(loaded: Loaded, records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """By record id, what an answer file keeps of a multiple-choice record; other records are left out.

    choices, choice (the place of the right one), letter_logprobs, choice_logprobs.
    """
    own = [record for record in records if record.choice is not None and len(record.choices) > 1]
    asked = [ChoiceQuestion(record.question, record.choices, record.choice or 0) for record in own]
    letters, texts = letter_logprobs(loaded, asked), text_logprobs(loaded, asked)
    return {
        record.id: {
            "choices": list(record.choices),
            "choice": record.choice,
            "letter_logprobs": by_letter,
            "choice_logprobs": by_text,
        }
        for record, by_letter, by_text in zip(own, letters, texts, strict=True)
    }
