"""Compute log-probabilities of multiple-choice options, by letter and by text.

By letter (MMLU, WMDP; lm-eval's default for both), with the answers " A", " B", ...:

    The following are multiple choice questions (with answers) about SUBJECT.

    QUESTION
    A. first
    B. second
    Answer:

By text (lm-eval's continuation form): "Question: QUESTION\\nAnswer:", with the answers " first", " second", ...

Solved questions (few-shot examples) may precede. No chat template is used, as in published results. All choices of a
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
# Replaces minus infinity, which JSON cannot represent.
_IMPOSSIBLE = -10_000.0

# One log-probability per choice; None if one of them is NaN.
ChoiceLogprobs = tuple[float, ...] | None


@dataclass(frozen=True)
class ChoiceQuestion:
    """Store a multiple-choice question.

    `right`: index of the correct choice; `about`: subject in the heading; `shots`: few-shot examples before it.
    """

    question: str
    choices: tuple[str, ...]
    right: int
    about: str = ""
    shots: tuple[ChoiceQuestion, ...] = ()


def lettered(question: ChoiceQuestion) -> str:
    """Format a prompt for answers by letter (" A", " B", ...)."""
    about = f" about {question.about}" if question.about else ""
    solved = "".join(f"{_listed(shot)} {LETTERS[shot.right]}\n\n" for shot in question.shots)
    return f"The following are multiple choice questions (with answers){about}.\n\n{solved}{_listed(question)}"


def spelled(question: ChoiceQuestion) -> str:
    """Format a prompt for answers by text: " " and the text of a choice."""
    solved = "".join(f"{_plain(shot)} {shot.choices[shot.right]}\n\n" for shot in question.shots)
    return solved + _plain(question)


def _listed(question: ChoiceQuestion) -> str:
    choices = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, question.choices, strict=False))
    return f"{question.question.strip()}\n{choices}\nAnswer:"


def _plain(question: ChoiceQuestion) -> str:
    return f"Question: {question.question.strip()}\nAnswer:"


def letter_logprobs(loaded: Loaded, questions: Sequence[ChoiceQuestion], *, tick: Any = None) -> list[ChoiceLogprobs]:
    """Compute the log-probability of each choice's letter, summed over tokens, for every question."""
    return _logprobs(loaded, questions, lettered, answers=lambda one: LETTERS[: len(one.choices)], tick=tick)


def text_logprobs(loaded: Loaded, questions: Sequence[ChoiceQuestion], *, tick: Any = None) -> list[ChoiceLogprobs]:
    """Compute the log-probability of each choice's text, summed over tokens, for every question."""
    return _logprobs(loaded, questions, spelled, answers=lambda one: one.choices, tick=tick)


def _logprobs(
    loaded: Loaded,
    questions: Sequence[ChoiceQuestion],
    prompt: Callable[[ChoiceQuestion], str],
    *,
    answers: Callable[[ChoiceQuestion], Sequence[str]],
    tick: Any,
) -> list[ChoiceLogprobs]:
    examples = [
        Example(f"{number}/{choice}", prompt(question), answer, "text", closed=False)
        for number, question in enumerate(questions)
        for choice, answer in enumerate(answers(question))
    ]
    logprobs = iter(answer_logprobs(loaded.model, encode(loaded.chat, examples), tick=tick))
    sums = [[float(next(logprobs).sum()) for _ in question.choices] for question in questions]
    return [
        None if any(map(isnan, own)) else tuple(round(max(total, _IMPOSSIBLE), _DIGITS) for total in own)
        for own in sums
    ]


def choice_columns(loaded: Loaded, records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Build the multiple-choice fields of answer rows, by record id; records without choices are left out.

    Fields: choices, choice (index of the correct choice), letter_logprobs, choice_logprobs.
    """
    with_choices = [record for record in records if record.choice is not None and len(record.choices) > 1]
    questions = [ChoiceQuestion(record.question, record.choices, record.choice or 0) for record in with_choices]
    letters, texts = letter_logprobs(loaded, questions), text_logprobs(loaded, questions)
    return {
        record.id: {
            "choices": list(record.choices),
            "choice": record.choice,
            "letter_logprobs": by_letter,
            "choice_logprobs": by_text,
        }
        for record, by_letter, by_text in zip(with_choices, letters, texts, strict=True)
    }
