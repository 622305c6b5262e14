"""Generate question variants (stage 1, question augmentation; arXiv 2502.11190, section 3) and wordings.

Question variants for training: paraphrased (simple), in a situation (contextual), with typos (noise), or asking for
something else (logical); one prompt per record for all kinds. Wordings for evaluation: the paraphrases of a record,
then generated paraphrases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from relearn.core import config
from relearn.data import Record
from relearn.llm import Completer, Prompt
from relearn.synthesis.checks import LeakCheck, form_flaw, invented_flaw, subject_flaw, subject_of
from relearn.synthesis.retry_loop import (
    Flaw,
    Slot,
    SlotGroup,
    SlotText,
    WritingTask,
    WrittenTexts,
    prompt_lines,
    read_labelled,
    write_with_retries,
)
from relearn.synthesis.rows import VARIANTS, Question, Rejection

# Output tokens per variant. A question rarely has more than 60 tokens; label and line end are added.
TOKENS_PER_VARIANT = 80
_REQUEST = re.compile(
    r"\b(tell|say|know|ask|hear|explain|describe|name|list|give|state|wonder\w*|curious|share|outline|please)\b", re.I
)


def write_questions(
    records: Sequence[Record], settings: config.Synthesis, completer: Completer, *, check_leaks: LeakCheck, seed: int
) -> tuple[dict[str, list[Question]], tuple[Rejection, ...]]:
    """Generate question variants; return, by record id, the record's question and its accepted variants.

    Variants are in the order of `settings.variants`, and those never accepted are left out. A document (`form` "text")
    has no variants. The second result contains the rejections. Raises GeneratorError if every prompt failed.
    """
    groups = [variant_group(record, settings) for record in records if record.form == "chat" and settings.variants]
    task = WritingTask(
        name="question",
        prompt=lambda group, attempt: variants_prompt(group, settings, seed=seed, attempt=attempt),
        parse=lambda reply, group: read_labelled(reply, [slot.variant for slot in group]),
        check=_VariantCheck(check_leaks),
    )
    written = write_with_retries(groups, task, completer, attempts=settings.attempts)
    questions = {record.id: [own_question(record), *_variants(record, settings, written)] for record in records}
    return questions, written.rejections


def own_question(record: Record) -> Question:
    """Return the unchanged question of a record."""
    return Question(record.id, "original", record.question)


def variant_group(record: Record, settings: config.Synthesis) -> SlotGroup:
    """Return one slot for each variant in the settings; the slots share one prompt."""
    own = own_question(record)
    return tuple(Slot(record, own.id, variant, record.question) for variant in settings.variants)


def variants_prompt(group: SlotGroup, settings: config.Synthesis, *, seed: int, attempt: int = 0) -> Prompt:
    """Make the prompt for the variants of one record."""
    record = group[0].record
    kinds = [slot.variant for slot in group]
    dropped = tuple(kind for kind in VARIANTS if kind not in kinds)
    count, words = str(len(kinds)), ", ".join(kinds)
    return Prompt(
        prompt_lines("variants", drop=dropped, count=count, words=words, question=record.question),
        task="variants",
        fields={"question": record.question, "subject": subject_of(record) or "", "kinds": ",".join(kinds)},
        max_tokens=TOKENS_PER_VARIANT * len(kinds) + len(record.question) // 3 * len(kinds),
        temperature=temperature_of(settings, attempt),
        attempt=attempt,
        seed=seed,
    )


def temperature_of(settings: config.Synthesis, attempt: int) -> float:
    """Return the temperature; at least 0.7 for retries, because greedy decoding would repeat the failed text."""
    return settings.temperature if attempt == 0 else max(settings.temperature, 0.7)


class _VariantCheck:
    """Reject a variant that repeats another question of its record, omits the subject, or leaks a secret."""

    def __init__(self, check_leaks: LeakCheck):
        self._check_leaks = check_leaks
        self._accepted: dict[str, set[str]] = {}

    def __call__(self, texts: Sequence[SlotText]) -> list[Flaw | None]:
        # A question may contain part of the answer. The question is therefore the prompt of the leak check, so that a
        # variant may contain that part, but no more.
        leaks = self._check_leaks([(slot.record, slot.record.question, text) for slot, text in texts])
        return [leak or self._flaw(slot, text) for (slot, text), leak in zip(texts, leaks, strict=True)]

    def _flaw(self, slot: Slot, text: str) -> Flaw | None:
        accepted = self._accepted.setdefault(slot.record.id, {_caseless(slot.record.question)})
        if _caseless(text) in accepted:
            return Flaw("duplicate", "the same as the question or another variant of it")
        flaw = (
            form_flaw(text)
            or _not_asking(slot, text)
            or subject_flaw(slot.record, slot.record.question, text)
            or invented_flaw(slot.record.question, text)
        )
        if flaw is None:
            accepted.add(_caseless(text))
        return flaw


def _not_asking(slot: Slot, text: str) -> Flaw | None:
    """Reject a variant that is no question or request; `noise` may lack the question mark and always passes."""
    if slot.variant == "noise" or not slot.question.rstrip().endswith("?") or "?" in text or _REQUEST.search(text):
        return None
    return Flaw("malformed", "neither a question nor a request")


def _caseless(text: str) -> str:
    return " ".join(text.casefold().split())


def _variants(record: Record, settings: config.Synthesis, written: WrittenTexts) -> list[Question]:
    slots = [slot for slot in variant_group(record, settings) if slot in written.texts]
    return [Question(record.id, slot.variant, written.texts[slot]) for slot in slots]


# "logical" asks for something else, so the answer of the record would not fit.
WORDING_VARIANTS = ("simple", "contextual", "noise")
# Added to the seed, so that wordings for evaluation differ from the question variants for training.
_WORDING_SEED = 104_729
_WORDING_MARK = "~"


def write_wordings(
    records: Sequence[Record],
    count: int,
    settings: config.Synthesis,
    *,
    completer: Completer,
    check_leaks: LeakCheck,
    seed: int,
) -> dict[str, list[str]]:
    """Generate at most `count` different wordings of each question, by record id; fewer if generation fails."""
    wordings = {record.id: list(dict.fromkeys(record.paraphrases))[:count] for record in records}
    settings = settings.model_copy(update={"variants": WORDING_VARIANTS})
    for turn in range(count):
        short = [record for record in records if len(wordings[record.id]) < count]
        if not short:
            break
        turn_seed = seed + _WORDING_SEED + turn
        questions, _ = write_questions(short, settings, completer, check_leaks=check_leaks, seed=turn_seed)
        for record in short:
            texts = [question.text for question in questions[record.id][1:]]
            wordings[record.id] = list(dict.fromkeys([*wordings[record.id], *texts]))[:count]
    return wordings


def wording_records(records: Sequence[Record], wordings: Mapping[str, Sequence[str]]) -> list[Record]:
    """Make a record for every wording, with the answer of its original record and an id from `wording_id`."""
    return [
        replace(record, question=text, id=wording_id(record.id, number), paraphrases=())
        for record in records
        for number, text in enumerate(wordings.get(record.id, ()), start=1)
    ]


def wording_id(record_id: str, number: int) -> str:
    """Make the id of a wording from the id of its record; `number` counts from 1."""
    return f"{record_id}{_WORDING_MARK}{number}"


def record_id_of_wording(wording_id: str) -> str:
    """Return the record id that is part of a wording id."""
    return wording_id.rpartition(_WORDING_MARK)[0]
