"""Generate texts, check each, and retry those that are missing or rejected; used by all synthesis stages.

A `Slot` is one text to generate. Each text in a reply has the label of its slot, so order, gaps and retries cannot
assign it to another slot. An ambiguous entry counts as missing. Prompt templates are text files in prompts/ with $name
placeholders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from string import Template

from relearn.core.errors import GeneratorError
from relearn.data import Record
from relearn.llm import Completer, Completion, Prompt
from relearn.synthesis.rows import Rejection, Variant


@dataclass(frozen=True, slots=True)
class Slot:
    """Describe one text to generate for `record` and its `question` (of a document: its prefix) of kind `variant`."""

    record: Record
    question_id: str
    variant: Variant
    question: str


@dataclass(frozen=True, slots=True)
class Flaw:
    """Store the reason why a generated text is rejected."""

    kind: str
    reason: str


SlotGroup = tuple[Slot, ...]
SlotText = tuple[Slot, str]
# For each generated text, a flaw or None.
CheckTexts = Callable[[Sequence[SlotText]], Sequence[Flaw | None]]


@dataclass(frozen=True)
class WritingTask:
    """Define how one kind of text is generated; `name` is used in messages.

    `prompt(group, attempt)` makes the prompt of a group of slots, `parse(reply, group)` returns a text or None for each
    slot, `check(texts)` a flaw or None for each text.
    """

    name: str
    prompt: Callable[[SlotGroup, int], Prompt]
    parse: Callable[[str, SlotGroup], list[str | None]]
    check: CheckTexts


@dataclass(frozen=True)
class WrittenTexts:
    """Store the accepted texts by slot, and all rejections in the order of slots and attempts.

    `writers`: number of texts by generator, if several wrote.
    """

    texts: dict[Slot, str]
    rejections: tuple[Rejection, ...]
    writers: Mapping[str, int] = field(default_factory=dict)


def write_with_retries(
    groups: Sequence[SlotGroup], task: WritingTask, completer: Completer, *, attempts: int
) -> WrittenTexts:
    """Generate a text for every slot, in at most `attempts` rounds.

    The first round sends one prompt per group. Later rounds send one prompt per missing or rejected text. A group whose
    prompt failed is retried as a group. Raises GeneratorError if every prompt failed.
    """
    texts: dict[Slot, str] = {}
    rejections: dict[Slot, list[Rejection]] = {slot: [] for group in groups for slot in group}
    pending = list(groups)
    completions: list[Completion] = []
    for attempt in range(attempts):
        if not pending:
            break
        replies = completer.complete([task.prompt(group, attempt) for group in pending])
        completions += replies
        accepted, rejected = _parse_and_check(list(zip(pending, replies, strict=True)), task)
        texts.update(accepted)
        for slot, text, flaw in rejected:
            rejections[slot].append(reject(slot, text, flaw, attempt=attempt))
        pending = [
            retry for group, reply in zip(pending, replies, strict=True) for retry in _to_retry(group, reply, texts)
        ]
    if completions and not any(completion.ok for completion in completions):
        failed = f"all {len(completions)} prompts failed, the last one: {completions[-1].error}"
        way_out = "see that the generator answers, then start again"
        raise GeneratorError(f"no {task.name} was written: {failed}", where="synthesis", way_out=way_out)
    return WrittenTexts(texts, tuple(_mark_final(rejections, texts)))


def reject(slot: Slot, text: str, flaw: Flaw, *, attempt: int = 0, final: bool = False) -> Rejection:
    """Make the rejection of a text that was generated for a slot."""
    place = (slot.record.id, slot.question_id, slot.variant, slot.question)
    return Rejection(*place, text, attempt, reason=flaw.reason, kind=flaw.kind, final=final)


def check_in_turn(
    texts: Sequence[SlotText], first: Callable[[Slot, str], Flaw | None], then: CheckTexts
) -> list[Flaw | None]:
    """Check each text with `first`, then check those that pass with one call of `then`, which may be expensive."""
    flaws = [first(slot, text) for slot, text in texts]
    passed = [number for number, flaw in enumerate(flaws) if flaw is None]
    for number, flaw in zip(passed, then([texts[number] for number in passed]), strict=True):
        flaws[number] = flaw
    return flaws


def _parse_and_check(
    replies: list[tuple[SlotGroup, Completion]], task: WritingTask
) -> tuple[dict[Slot, str], list[tuple[Slot, str, Flaw]]]:
    """Return the accepted texts, and the rejected ones with their flaws."""
    rejected: list[tuple[Slot, str, Flaw]] = []
    written: list[SlotText] = []
    unparsed = Flaw("unparsed", "the reply holds no entry for it, or a doubtful one")
    for group, reply in replies:
        if reply.error is not None:
            rejected += [(slot, "", Flaw("error", f"the generator failed: {reply.error}")) for slot in group]
            continue
        for slot, text in zip(group, task.parse(reply.text, group), strict=True):
            if text is None:
                rejected.append((slot, reply.text, unparsed))
            else:
                written.append((slot, text))
    accepted: dict[Slot, str] = {}
    for (slot, text), flaw in zip(written, task.check(written), strict=True):
        if flaw is None:
            accepted[slot] = text
        else:
            rejected.append((slot, text, flaw))
    return accepted, rejected


def _to_retry(group: SlotGroup, reply: Completion, texts: dict[Slot, str]) -> list[SlotGroup]:
    return [(slot,) for slot in group if slot not in texts] if reply.ok else [group]


def _mark_final(rejections: dict[Slot, list[Rejection]], texts: dict[Slot, str]) -> list[Rejection]:
    """Return the rejections in the order of slots and attempts; the last one of a slot without a text is final."""
    ordered: list[Rejection] = []
    for slot, of_slot in rejections.items():
        if of_slot and slot not in texts:
            of_slot = [*of_slot[:-1], replace(of_slot[-1], final=True)]
        ordered += of_slot
    return ordered


_QUOTES = {'"': '"', "“": "”", "'": "'", "‘": "’"}


def read_labelled(reply: str, labels: Sequence[str]) -> list[str | None]:
    """Parse a reply of lines "label: text"; return one text per label, in the order of `labels`, None if missing.

    Labels are "1", "2", ... or words. A text is missing if its label is absent or occurs twice, if it is empty, or if
    it continues on the next line (text after an empty line is ignored). If a number is unknown, all texts are missing,
    because it is unclear which text belongs to which slot. An unknown word is ignored.
    """
    numbered = all(label.isdigit() for label in labels)
    pattern = _entry_pattern(r"\d{1,3}" if numbered else "[a-z]{3,12}")
    entries: dict[str, str | None] = {}
    open_label: str | None = None
    for line in reply.splitlines():
        line = line.strip()
        match = pattern.match(_without_emphasis(line))
        if match is not None:
            label = match["label"].lower()
            entries[label] = None if label in entries else _unquoted(match["text"])
            open_label = label
        elif not line:
            open_label = None
        elif open_label is not None:
            entries[open_label] = None
    if numbered and not set(entries) <= set(labels):
        return [None] * len(labels)
    return [entries.get(label.lower()) or None for label in labels]


def number_labels(count: int) -> list[str]:
    """Return the labels "1", "2", ... for `read_labelled`."""
    return [str(number) for number in range(1, count + 1)]


def read_passage(reply: str, prefix: str) -> str | None:
    """Parse a reply that is one passage; remove `prefix` at its start; return None if nothing is left."""
    text = " ".join(reply.split())
    for echo in (" ".join(prefix.split()), "..."):
        if text.startswith(echo):
            text = text[len(echo) :].lstrip()
    return _unquoted(text) or None


def _entry_pattern(label: str) -> re.Pattern[str]:
    return re.compile(
        rf"[-\s]*(?:\*\*|__)?\(?(?P<label>{label})\)?(?:\*\*|__)?\s?[.):](?:\*\*|__)?\s+(?P<text>\S.*)", re.I
    )


def _without_emphasis(line: str) -> str:
    """Remove the ** marks of a line that is bold as a whole."""
    if len(line) > 4 and line.startswith("**") and line.endswith("**") and line.count("**") == 2:
        return line[2:-2]
    return line


def _unquoted(text: str) -> str:
    text = text.strip()
    closing = _QUOTES.get(text[:1])
    if closing and len(text) > 2 and text.endswith(closing) and closing not in text[1:-1] and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    return text


@lru_cache
def _template(name: str) -> str:
    return resources.files("relearn.synthesis").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8")


def prompt_text(name: str, **values: str) -> str:
    """Fill `values` into the template prompts/<name>.txt; a "$" inside a value is not replaced."""
    return Template(_template(name)).substitute(values).strip()


def prompt_lines(name: str, drop: tuple[str, ...], **values: str) -> str:
    """Fill a template as `prompt_text` does, without lines that begin with a word of `drop` and a colon."""
    dropped = tuple(f"{word}:" for word in drop)
    lines = [line for line in _template(name).splitlines() if not line.startswith(dropped)]
    return Template("\n".join(lines)).substitute(values).strip()


def about_subject(subject: str) -> str:
    """Return " about SUBJECT" for $about in a template, or "" without a subject."""
    return f" about {subject}" if subject else ""
