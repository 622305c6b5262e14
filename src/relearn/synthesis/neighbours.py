"""A retain set where the user gave none: what the start model itself says about the same subjects and about the world.

A generator writes public questions about each subject of the forget set, everyday questions are added, and the start
model answers them all. What tells a secret of the forget set is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relearn.core.errors import GeneratorError
from relearn.data import Record
from relearn.data.validation import normalised
from relearn.llm import Completer, Prompt
from relearn.synthesis.checks import Verifier, form_flaw, subject_of
from relearn.synthesis.retry_loop import prompt_text, read_labelled

PER_SUBJECT = 5
TOKENS_PER_QUESTION = 48
TEMPERATURE = 0.7
SOURCE = "asked of the start model"


def neighbour_records(
    records: Sequence[Record],
    completer: Completer,
    ask: Callable[[list[str]], list[str]],
    verifier: Verifier,
    seed: int,
) -> list[Record]:
    """Retain records made of neighbour questions and the answers that `ask`, the start model, gives to them.

    `verifier` knows the secrets of `records`; a question or answer that tells one is left out, as is an answer that is
    no usable text. Raises GeneratorError when no prompt for questions brought an answer.
    """
    subjects = list(dict.fromkeys(subject for record in records if (subject := subject_of(record))))
    to_forget = {normalised(record.question) for record in records}
    questions = _questions(subjects, completer, seed)
    questions += [(question, None) for question in prompt_text("everyday").splitlines()]
    questions = [entry for entry in _distinct(questions) if normalised(entry[0]) not in to_forget]
    answers = ask([question for question, _ in questions])
    return [
        Record(question, answer, subject=subject, split="retain", source=SOURCE)
        for (question, subject), answer in zip(questions, (answer.strip() for answer in answers), strict=True)
        if form_flaw(answer) is None and not verifier.index.check(question, answer, subject=subject)
    ]


def _questions(subjects: list[str], completer: Completer, seed: int) -> list[tuple[str, str | None]]:
    prompts = [
        Prompt(
            prompt_text("neighbours", subject=subject),
            task="neighbours",
            fields={"subject": subject},
            max_tokens=PER_SUBJECT * TOKENS_PER_QUESTION,
            temperature=TEMPERATURE,
            seed=seed,
        )
        for subject in subjects
    ]
    replies = completer.complete(prompts)
    if replies and not any(reply.ok for reply in replies):
        raise GeneratorError(
            f"no neighbour question was written: {replies[-1].error}",
            where="synthesis",
            way_out="give a retain set, or see that the generator answers",
        )
    labels = [str(number) for number in range(1, PER_SUBJECT + 1)]
    return [
        (question, subject)
        for subject, reply in zip(subjects, replies, strict=True)
        for question in read_labelled(reply.text, labels)
        if question is not None and form_flaw(question) is None
    ]


def _distinct(questions: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    return list({normalised(question): (question, subject) for question, subject in reversed(questions)}.values())[::-1]
