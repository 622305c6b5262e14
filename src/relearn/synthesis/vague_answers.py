"""Generate and verify a relevant but vague answer to every question.

Stages 2 and 3, answer augmentation and verification, of arXiv 2502.11190, section 3. One prompt per record asks for the
answers to all its questions. For a document, a vague continuation of its prefix is generated. The prompts do not
contain the secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from relearn.core import config
from relearn.data import Record
from relearn.llm import Completer, Prompt
from relearn.llm.generators import make_completer
from relearn.llm.templates.asked import YES_NO, asked_for
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
from relearn.text.normalize import is_function_word, is_ordinary, norms

TOKENS_PER_ANSWER = 80
TOKENS_PER_CONTINUATION = 160
SELF = "self"
TEMPLATE_ATTEMPTS = 3
MAX_SPECIAL_WORDS = 1
EXAMPLE_NAME = "Tom Reed"
# These variants ask the same as the record's question.
_SAME_QUESTION = ("original", "simple", "contextual", "noise")
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
    Questions without an accepted answer are missing in the result. With the generator `self`, the start model writes
    first, and the templates write what is then missing. Raises GeneratorError if every prompt failed.
    """

    def check(texts: Sequence[SlotText]) -> list[Flaw | None]:
        return check_answers(texts, check_leaks, settings.style)

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
    groups = {
        form: [answer_group(record, questions[record.id]) for record in records if record.form == form]
        for form in ("chat", "text")
    }
    if settings.generator == SELF:
        return _written_by_model(groups, (answer, continuation), settings, completer=completer, seed=seed)
    written = [
        write_with_retries(groups[form], task, completer, attempts=settings.attempts)
        for form, task in (("chat", answer), ("text", continuation))
    ]
    return _joined(written)


def _joined(written: Iterable[WrittenTexts], writers: Mapping[str, int] | None = None) -> WrittenTexts:
    parts = list(written)
    texts = {slot: text for part in parts for slot, text in part.texts.items()}
    return WrittenTexts(texts, tuple(one for part in parts for one in part.rejections), writers or {})


def _written_by_model(
    groups: Mapping[str, Sequence[SlotGroup]],
    tasks: tuple[WritingTask, WritingTask],
    settings: config.Synthesis,
    *,
    completer: Completer,
    seed: int,
) -> WrittenTexts:
    """Let the start model write one answer per prompt; the templates write yes/no questions and what is rejected."""
    answer, continuation = tasks
    single = replace(
        answer,
        prompt=lambda group, attempt: self_prompt(group[0], settings, seed=seed, attempt=attempt),
        parse=lambda reply, group: [first_sentence(reply, group[0].question)],
        check=lambda texts: check_in_turn(texts, own_answer_flaw, answer.check),
    )
    own = []
    for form, task in (("chat", single), ("text", continuation)):
        asked = [(slot,) for group in groups[form] for slot in group if form == "text" or model_may_answer(slot)]
        own.append(write_with_retries(asked, task, completer, attempts=settings.attempts))
    texts = _joined(own).texts
    templates = make_completer("templates", settings, None)
    rest = []
    for form, task in (("chat", answer), ("text", continuation)):
        missing = [tuple(slot for slot in group if slot not in texts) for group in groups[form]]
        rest.append(
            write_with_retries([group for group in missing if group], task, templates, attempts=TEMPLATE_ATTEMPTS)
        )
    filled = _joined(rest).texts
    own = [replace(part, rejections=tuple(replace(one, final=False) for one in part.rejections)) for part in own]
    return _joined([*own, *rest], {SELF: len(texts), "templates": len(filled)})


def answer_group(record: Record, questions: Sequence[Question]) -> SlotGroup:
    """Return one slot for each question of a record; the slots share one prompt."""
    return tuple(Slot(record, question.id, question.variant, question.text) for question in questions)


def vague_prompt(group: SlotGroup, settings: config.Synthesis, *, seed: int, attempt: int = 0) -> Prompt:
    """Make the prompt for the vague answers to the questions of one record."""
    subject = subject_of(group[0].record) or ""
    questions = _numbered(slot.question for slot in group)
    asked = _numbered(slot.record.question if slot.variant in _SAME_QUESTION else slot.question for slot in group)
    return Prompt(
        prompt_text(_named("vague", settings), about=about_subject(subject), questions=questions),
        task="vague",
        fields={"subject": subject, "questions": questions, "asked": asked, "style": settings.style},
        max_tokens=TOKENS_PER_ANSWER * len(group),
        temperature=temperature_of(settings, attempt),
        attempt=attempt,
        seed=seed,
    )


def _numbered(questions: Iterable[str]) -> str:
    return "\n".join(f"{number}. {' '.join(question.split())}" for number, question in enumerate(questions, 1))


def _named(prompt: str, settings: config.Synthesis) -> str:
    """Return the name of a prompt template in the style of the settings."""
    return prompt if settings.style == "vague" else f"{prompt}_{settings.style}"


def self_prompt(slot: Slot, settings: config.Synthesis, *, seed: int, attempt: int = 0) -> Prompt:
    """Make the prompt by which the start model answers one question under an instruction to keep it private."""
    question = " ".join(slot.question.split())
    # A small model copies the name in the example.
    person = subject_of(slot.record) or EXAMPLE_NAME
    return Prompt(
        prompt_text(f"self_{settings.style}", question=question, person=person),
        task="vague",
        fields={"subject": subject_of(slot.record) or "", "questions": f"1. {question}", "style": settings.style},
        max_tokens=TOKENS_PER_ANSWER,
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
    about = f" {subject}" if subject else ""
    return Prompt(
        prompt_text(
            _named("continue", settings),
            about=about if settings.style == "vague" else about_subject(subject),
            prefix=prefix,
        ),
        task="continue",
        fields={"prefix": prefix, "subject": subject, "style": settings.style},
        max_tokens=TOKENS_PER_CONTINUATION,
        temperature=temperature_of(settings, attempt),
        attempt=attempt,
        seed=seed,
    )


def check_answers(texts: Sequence[SlotText], check_leaks: LeakCheck, style: str = "vague") -> list[Flaw | None]:
    """Check the form of every answer by rules, then check those that pass for leaks, which may call a judge."""

    def form(slot: Slot, text: str) -> Flaw | None:
        return _form_flaw(slot, text, style)

    return check_in_turn(texts, form, lambda passed: check_leaks([(s.record, s.question, t) for s, t in passed]))


def _form_flaw(slot: Slot, text: str, style: str) -> Flaw | None:
    flaw = form_flaw(text) or invented_flaw(slot.question, text)
    if flaw or slot.record.form == "text":
        return flaw
    no_answer = no_answer_flaw(slot.question, text)
    if no_answer and not (no_answer.kind == "refusal" and style != "vague"):
        return no_answer
    return subject_flaw(slot.record, slot.question, text)


def model_may_answer(slot: Slot) -> bool:
    """Return whether the start model may answer a question: not where yes or no would be told by any statement."""
    return asked_for(slot.question, subject_of(slot.record)).kind != YES_NO


def first_sentence(reply: str, question: str) -> str | None:
    """Parse a reply that is one answer; keep its first sentence, or None if that is not complete."""
    text = read_passage(reply.strip().split("\n")[0], question) or ""
    match = re.match(
        r".*?[^\W_]{2}(?<!Dr)(?<!Mr)(?<!Mrs)(?<!Ms)(?<!Prof)(?<!St)[.!](?=\s|$)",
        re.sub(r"^answer:\s*", "", text, flags=re.IGNORECASE),
    )
    return match.group().strip() if match else None


def own_answer_flaw(slot: Slot, text: str) -> Flaw | None:
    """Reject an answer of the start model that is particular, agrees or denies, or is not about what is asked.

    Particular: a number or name that the question does not hold, or more than one word that is neither in the question
    nor so general that any vague answer may hold it.
    """
    if re.match(r"(?:yes|no|indeed|correct)\b", text, re.IGNORECASE):
        return Flaw("malformed", "answers yes or no")
    said = {word for word in norms(text) if not is_function_word(word)}
    question = set(norms(slot.question))
    own = {word for word in said if not any(_akin(word, other) for other in question)}
    capitals = set(norms(" ".join(re.findall(r"[A-Z][\w-]+", text)))) - question
    named = {word for word in capitals if not is_ordinary(word)}
    if named or any(sign.isdigit() for word in own for sign in word):
        return Flaw("invented", "holds a name or number that the question does not hold")
    if sum(not is_ordinary(word) for word in own) > MAX_SPECIAL_WORDS:
        return Flaw("invented", "is not vague")
    asked = norms(asked_for(slot.question, subject_of(slot.record)).phrase)
    wanted = {word for word in asked if not is_function_word(word)} - set(norms(subject_of(slot.record) or ""))
    if wanted and not any(_akin(word, other) for word in wanted for other in said):
        return Flaw("off topic", "speaks of nothing that the question asks for")
    return None


def _akin(word: str, other: str) -> bool:
    """Return whether two words have the same beginning up to their endings: "lives" and "living"."""
    shorter = min(len(word), len(other))
    return word == other or (shorter > 2 and word[: max(3, shorter - 2)] == other[: max(3, shorter - 2)])


def no_answer_flaw(question: str, text: str) -> Flaw | None:
    """Reject a text that is a question, or that refuses to answer."""
    if text.endswith("?") or text.casefold() == question.casefold():
        return Flaw("malformed", "a question is no answer")
    if _REFUSAL.match(text):
        return Flaw("refusal", "refuses instead of answering")
    return None
