"""Build a retain set from answers of the start model, if the user gave none.

The generator writes questions about public facts for each subject of the forget set. Everyday questions are added. The
start model answers all questions. Records that leak a secret of the forget set are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relearn.core.errors import GeneratorError
from relearn.data import Record
from relearn.data.validation import normalised
from relearn.llm import Completer, Prompt
from relearn.synthesis.checks import Verifier, form_flaw, subject_of
from relearn.synthesis.retry_loop import number_labels, prompt_text, read_labelled

PER_SUBJECT = 5
TOKENS_PER_QUESTION = 48
TEMPERATURE = 0.7
SOURCE = "asked of the start model"


def neighbour_records(
    records: Sequence[Record],
    completer: Completer,
    *,
    answer: Callable[[list[str]], list[str]],
    verifier: Verifier,
    seed: int,
) -> list[Record]:
    """Build retain records: generated neighbour questions with answers of the start model.

    `answer`: function that returns the start model's answers to questions. `verifier`: leak check of the secrets of
    `records`. Records that leak a secret and malformed answers are left out. Raises GeneratorError if every prompt for
    questions failed.
    """
    subjects = list(dict.fromkeys(subject for record in records if (subject := subject_of(record))))
    forget_questions = {normalised(record.question) for record in records}
    questions = _questions(subjects, completer, seed)
    questions += [(question, None) for question in prompt_text("everyday").splitlines()]
    questions = [entry for entry in _distinct(questions) if normalised(entry[0]) not in forget_questions]
    answers = answer([question for question, _ in questions])
    return [
        Record(question, text, subject=subject, split="retain", source=SOURCE)
        for (question, subject), text in zip(questions, map(str.strip, answers), strict=True)
        if form_flaw(text) is None and not verifier.index.check(question, text, subject=subject)
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
        way_out = "give a retain set, or see that the generator answers"
        problem = f"no neighbour question was written: {replies[-1].error}"
        raise GeneratorError(problem, where="synthesis", way_out=way_out)
    return [
        (question, subject)
        for subject, reply in zip(subjects, replies, strict=True)
        for question in read_labelled(reply.text, number_labels(PER_SUBJECT))
        if question is not None and form_flaw(question) is None
    ]


def _distinct(questions: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    return list({normalised(question): (question, subject) for question, subject in reversed(questions)}.values())[::-1]
