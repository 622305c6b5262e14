"""Stage 1, question augmentation: each question once more in other words, in a situation, with typing errors, and
turned round (arXiv 2502.11190, section 3). One prompt per record for all kinds.

Other wordings of a question for asking, not for training: those that the records bring, then newly written ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from relearn.core import config
from relearn.core.config import Synthesis
from relearn.data import Record
from relearn.llm import Completer, Prompt
from relearn.synthesis.checks import Inspect, form_flaw, invented_flaw, subject_flaw, subject_of
from relearn.synthesis.retry_loop import Filled, Flaw, Group, Slot, Writing, fill, prompt_lines, read_labelled
from relearn.synthesis.rows import VARIANTS, Question, Rejection

# A question rarely has more than 60 tokens; the label and the line end are counted in.
TOKENS_PER_VARIANT = 80
_REQUEST = re.compile(
    r"\b(tell|say|know|ask|hear|explain|describe|name|list|give|state|wonder\w*|curious|share|outline|please)\b", re.I
)


def write_questions(
    records: Sequence[Record], settings: config.Synthesis, completer: Completer, inspect: Inspect, seed: int
) -> tuple[dict[str, list[Question]], tuple[Rejection, ...]]:
    """Record id -> its own question and the variants that were written, in the order of `settings.variants`.

    A variant that could not be had is left out, with its rejections; a document (`form` "text") has none.
    """
    groups = [variant_group(record, settings) for record in records if record.form == "chat" and settings.variants]
    filled = fill(groups, variant_writing(settings, inspect, seed), completer, settings.attempts)
    return {record.id: [own_question(record), *_variants(record, settings, filled)] for record in records}, (
        filled.rejections
    )


def own_question(record: Record) -> Question:
    return Question(record.id, "original", record.question)


def variant_group(record: Record, settings: config.Synthesis) -> Group:
    own = own_question(record)
    return tuple(Slot(record, own.id, kind, record.question) for kind in settings.variants)


def variant_writing(settings: config.Synthesis, inspect: Inspect, seed: int) -> Writing:
    return Writing(
        what="question",
        ask=lambda group, attempt: variants_prompt(group, settings, seed, attempt),
        read=lambda reply, group: read_labelled(reply, [slot.variant for slot in group]),
        check=_VariantCheck(inspect),
    )


def variants_prompt(group: Group, settings: config.Synthesis, seed: int, attempt: int = 0) -> Prompt:
    record = group[0].record
    kinds = [slot.variant for slot in group]
    return Prompt(
        prompt_lines(
            "variants",
            drop=tuple(kind for kind in VARIANTS if kind not in kinds),
            count=str(len(kinds)),
            words=", ".join(kinds),
            question=record.question,
        ),
        task="variants",
        fields={"question": record.question, "subject": subject_of(record) or "", "kinds": ",".join(kinds)},
        max_tokens=TOKENS_PER_VARIANT * len(kinds) + len(record.question) // 3 * len(kinds),
        temperature=temperature_of(settings, attempt),
        attempt=attempt,
        seed=seed,
    )


def temperature_of(settings: config.Synthesis, attempt: int) -> float:
    """Greedy writing would bring the same failing text again, so a repeated attempt is always sampled."""
    return settings.temperature if attempt == 0 else max(settings.temperature, 0.7)


class _VariantCheck:
    """Refuses what repeats the question or another variant of it, loses the subject, or tells the secret."""

    def __init__(self, inspect: Inspect):
        self._inspect = inspect
        self._taken: dict[str, set[str]] = {}

    def __call__(self, written: Sequence[tuple[Slot, str]]) -> list[Flaw | None]:
        # The record's own question may hold part of the answer; a variant may hold no more of it than that.
        leaks = self._inspect([(slot.record, slot.record.question, text) for slot, text in written])
        return [leak or self._own_flaw(slot, text) for (slot, text), leak in zip(written, leaks, strict=True)]

    def _own_flaw(self, slot: Slot, text: str) -> Flaw | None:
        taken = self._taken.setdefault(slot.record.id, {_plain(slot.record.question)})
        if _plain(text) in taken:
            return Flaw("duplicate", "the same as the question or another variant of it")
        flaw = (
            form_flaw(text)
            or _not_asking(slot, text)
            or subject_flaw(slot.record, slot.record.question, text)
            or invented_flaw(slot.record.question, text)
        )
        if flaw is None:
            taken.add(_plain(text))
        return flaw


def _not_asking(slot: Slot, text: str) -> Flaw | None:
    """A statement in place of a question; careless typing may lack the mark, so `noise` is let through."""
    if slot.variant == "noise" or not slot.asked.rstrip().endswith("?") or "?" in text or _REQUEST.search(text):
        return None
    return Flaw("malformed", "neither a question nor a request")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _variants(record: Record, settings: config.Synthesis, filled: Filled) -> list[Question]:
    if record.form != "chat":
        return []
    return [
        Question(record.id, slot.variant, filled.texts[slot])
        for slot in variant_group(record, settings)
        if slot in filled.texts
    ]


# "logical" asks for something else, so its answer would be another.
KINDS = ("simple", "contextual", "noise")
# Drawn apart from the question variants that training is made of.
_APART = 104_729
_MARK = "~"


def write_wordings(
    records: Sequence[Record], count: int, settings: Synthesis, completer: Completer, inspect: Inspect, seed: int
) -> dict[str, list[str]]:
    """Record id -> at most `count` wordings, all different; fewer where no more could be written."""
    found = {record.id: list(dict.fromkeys(record.paraphrases))[:count] for record in records}
    asked = settings.model_copy(update={"variants": KINDS})
    for turn in range(count):
        short = [record for record in records if len(found[record.id]) < count]
        if not short:
            break
        written, _ = write_questions(short, asked, completer, inspect, seed + _APART + turn)
        for record in short:
            texts = [question.text for question in written[record.id][1:]]
            found[record.id] = list(dict.fromkeys([*found[record.id], *texts]))[:count]
    return found


def worded(records: Sequence[Record], wordings: Mapping[str, Sequence[str]]) -> list[Record]:
    """A record for every wording, with the answer of its own record; `worded_record` gives that one's id."""
    return [
        replace(record, question=text, id=worded_id(record.id, number), paraphrases=())
        for record in records
        for number, text in enumerate(wordings.get(record.id, ()), start=1)
    ]


def worded_id(record_id: str, number: int) -> str:
    """The id of a record's wording of that number."""
    return f"{record_id}{_MARK}{number}"


def worded_record(wording_id: str) -> str:
    """The id of the record that a wording is of."""
    return wording_id.rpartition(_MARK)[0]
