"""Generate and verify a relevant but vague answer to every question.

Stages 2 and 3, answer augmentation and verification, of arXiv 2502.11190, section 3. One prompt per record asks for the
answers to all its questions. For a document, a vague continuation of its prefix is generated. The prompts do not
contain the secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from relearn.core import config
from relearn.data import Record
from relearn.llm import Completer, Prompt
from relearn.synthesis.checks import LeakCheck, form_flaw, invented_flaw, subject_flaw, subject_of
from relearn.synthesis.questions import temperature_of
from relearn.synthesis.retry_loop import (
    Flaw,
    Slot,
    SlotGroup,
    SlotText,
    WritingTask,
    WrittenTexts,
    about_subject,
    check_in_turn,
    number_labels,
    prompt_text,
    read_labelled,
    read_passage,
    write_with_retries,
)
from relearn.synthesis.rows import Question

TOKENS_PER_ANSWER = 80
TOKENS_PER_CONTINUATION = 160
_REFUSAL = re.compile(
    r"(i['’]?m |i am )?(sorry|afraid)\b|i (cannot|can['’]?t|am unable|do(n['’]t| not) (know|have))|as an ai", re.I
)


def write_answers(
    records: Sequence[Record],
    questions: Mapping[str, Sequence[Question]],
    settings: config.Synthesis,
    *,
    completer: Completer,
    check_leaks: LeakCheck,
    seed: int,
    hide: Callable[[str], str] = str,
) -> WrittenTexts:
    """Generate a vague answer to every question; the results are by slot of `answer_group`.

    `questions`: record id -> questions. `hide`: removes secrets from the prefix of a passage before it is sent.
    Questions without an accepted answer are missing in the result. Raises GeneratorError if every prompt failed.
    """

    def check(texts: Sequence[SlotText]) -> list[Flaw | None]:
        return check_answers(texts, check_leaks)

    answer = WritingTask(
        name="answer",
        prompt=lambda group, attempt: vague_prompt(group, settings, seed=seed, attempt=attempt),
        parse=lambda reply, group: read_labelled(reply, number_labels(len(group))),
        check=check,
    )
    continuation = WritingTask(
        name="continuation",
        prompt=lambda group, attempt: continue_prompt(group, settings, seed=seed, attempt=attempt, hide=hide),
        parse=lambda reply, group: [read_passage(reply, group[0].question)],
        check=check,
    )
    written = WrittenTexts({}, ())
    for form, task in (("chat", answer), ("text", continuation)):
        groups = [answer_group(record, questions[record.id]) for record in records if record.form == form]
        more = write_with_retries(groups, task, completer, attempts=settings.attempts)
        written = WrittenTexts({**written.texts, **more.texts}, written.rejections + more.rejections)
    return written


def answer_group(record: Record, questions: Sequence[Question]) -> SlotGroup:
    """Return one slot for each question of a record; the slots share one prompt."""
    return tuple(Slot(record, question.id, question.variant, question.text) for question in questions)


def vague_prompt(group: SlotGroup, settings: config.Synthesis, *, seed: int, attempt: int = 0) -> Prompt:
    """Make the prompt for the vague answers to the questions of one record."""
    subject = subject_of(group[0].record) or ""
    questions = "\n".join(f"{number}. {' '.join(slot.question.split())}" for number, slot in enumerate(group, 1))
    return Prompt(
        prompt_text("vague", about=about_subject(subject), questions=questions),
        task="vague",
        fields={"subject": subject, "questions": questions},
        max_tokens=TOKENS_PER_ANSWER * len(group),
        temperature=temperature_of(settings, attempt),
        attempt=attempt,
        seed=seed,
    )


def continue_prompt(
    group: SlotGroup, settings: config.Synthesis, *, seed: int, attempt: int = 0, hide: Callable[[str], str] = str
) -> Prompt:
    """Make the prompt for a vague continuation of a document prefix, without the secrets that `hide` removes."""
    subject = subject_of(group[0].record) or ""
    prefix = hide(group[0].question)
    return Prompt(
        prompt_text("continue", about=f" {subject}" if subject else "", prefix=prefix),
        task="continue",
        fields={"prefix": prefix, "subject": subject},
        max_tokens=TOKENS_PER_CONTINUATION,
        temperature=temperature_of(settings, attempt),
        attempt=attempt,
        seed=seed,
    )


def check_answers(texts: Sequence[SlotText], check_leaks: LeakCheck) -> list[Flaw | None]:
    """Check the form of every answer by rules, then check those that pass for leaks, which may call a judge."""
    return check_in_turn(texts, _form_flaw, lambda passed: check_leaks([(s.record, s.question, t) for s, t in passed]))


def _form_flaw(slot: Slot, text: str) -> Flaw | None:
    flaw = form_flaw(text) or invented_flaw(slot.question, text)
    if flaw or slot.record.form == "text":
        return flaw
    return no_answer_flaw(slot.question, text) or subject_flaw(slot.record, slot.question, text)


def no_answer_flaw(question: str, text: str) -> Flaw | None:
    """Reject a text that is a question, or that refuses to answer."""
    if text.endswith("?") or text.casefold() == question.casefold():
        return Flaw("malformed", "a question is no answer")
    if _REFUSAL.match(text):
        return Flaw("refusal", "refuses instead of answering")
    return None
