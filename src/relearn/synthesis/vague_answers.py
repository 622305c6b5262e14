"""Stages 2 and 3, answer augmentation and verification: a relevant but vague answer to every question, looked at before
it is taken (arXiv 2502.11190, section 3). One prompt per record for all its questions; the secret is never shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from relearn.core import config
from relearn.data import Record
from relearn.llm import Completer, Prompt
from relearn.synthesis.checks import Inspect, form_flaw, invented_flaw, subject_flaw, subject_of
from relearn.synthesis.prompt_files import prompt_text
from relearn.synthesis.questions import temperature_of
from relearn.synthesis.replies import read_labelled, read_passage
from relearn.synthesis.retry_loop import Filled, Flaw, Group, Slot, Writing, fill
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
    completer: Completer,
    inspect: Inspect,
    seed: int,
) -> Filled:
    """A text for every question that one could be had for, held by the question's own slot."""
    groups = [answer_group(record, questions[record.id]) for record in records]
    chat = fill(
        [group for group in groups if group[0].record.form == "chat"],
        Writing(
            what="answer",
            ask=lambda group, attempt: vague_prompt(group, settings, seed, attempt),
            read=lambda reply, group: read_labelled(reply, _numbers(group)),
            check=lambda written: check_answers(written, inspect),
        ),
        completer,
        settings.attempts,
    )
    passages = fill(
        [group for group in groups if group[0].record.form == "text"],
        Writing(
            what="continuation",
            ask=lambda group, attempt: continue_prompt(group, settings, seed, attempt),
            read=lambda reply, group: [read_passage(reply, group[0].asked)],
            check=lambda written: check_answers(written, inspect),
        ),
        completer,
        settings.attempts,
    )
    return Filled({**chat.texts, **passages.texts}, chat.rejections + passages.rejections)


def answer_group(record: Record, questions: Sequence[Question]) -> Group:
    return tuple(Slot(record, question.id, question.variant, question.text) for question in questions)


def vague_prompt(group: Group, settings: config.Synthesis, seed: int, attempt: int = 0) -> Prompt:
    subject = subject_of(group[0].record) or ""
    questions = "\n".join(
        f"{number}. {' '.join(slot.asked.split())}" for number, slot in zip(_numbers(group), group, strict=True)
    )
    return Prompt(
        prompt_text("vague", about=f" about {subject}" if subject else "", questions=questions),
        task="vague",
        fields={"subject": subject, "questions": questions},
        max_tokens=TOKENS_PER_ANSWER * len(group),
        temperature=temperature_of(settings, attempt),
        attempt=attempt,
        seed=seed,
    )


def continue_prompt(group: Group, settings: config.Synthesis, seed: int, attempt: int = 0) -> Prompt:
    subject = subject_of(group[0].record) or ""
    prefix = group[0].asked
    return Prompt(
        prompt_text("continue", about=f" {subject}" if subject else "", prefix=prefix),
        task="continue",
        fields={"prefix": prefix, "subject": subject},
        max_tokens=TOKENS_PER_CONTINUATION,
        temperature=temperature_of(settings, attempt),
        attempt=attempt,
        seed=seed,
    )


def check_answers(written: Sequence[tuple[Slot, str]], inspect: Inspect) -> list[Flaw | None]:
    """The cheap looks first, so that a judge is only asked about texts that pass them."""
    flaws = [_own_flaw(slot, text) for slot, text in written]
    rest = [number for number, flaw in enumerate(flaws) if flaw is None]
    leaks = inspect([(written[number][0].record, written[number][0].asked, written[number][1]) for number in rest])
    for number, leak in zip(rest, leaks, strict=True):
        flaws[number] = leak
    return flaws


def _own_flaw(slot: Slot, text: str) -> Flaw | None:
    if flaw := form_flaw(text):
        return flaw
    if flaw := invented_flaw(slot.asked, text):
        return flaw
    if slot.record.form == "text":
        return None
    return no_answer_flaw(slot.asked, text) or subject_flaw(slot.record, slot.asked, text)


def no_answer_flaw(asked: str, text: str) -> Flaw | None:
    """A text that asks back or declines instead of answering."""
    if text.endswith("?") or text.casefold() == asked.casefold():
        return Flaw("malformed", "a question is no answer")
    if _REFUSAL.match(text):
        return Flaw("refusal", "refuses instead of answering")
    return None


def _numbers(group: Group) -> list[str]:
    return [str(number) for number in range(1, len(group) + 1)]
