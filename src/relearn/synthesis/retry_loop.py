"""Have texts written, look at each, and ask again for those that will not do: the loop under every stage.

A place to be filled is a `Slot`; a text reaches its slot by the label it was asked under, so neither order nor gaps nor
repeated attempts can give it to another slot.

Reading a generator's reply strictly: every entry by its label, never by its place; what is doubtful is missing.

The prompts, kept as plain text files in prompts/; $name stands for what is put in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from string import Template

from relearn.core.errors import GeneratorError
from relearn.data import Record
from relearn.llm import Completer, Completion, Prompt
from relearn.synthesis.rows import Rejection, Variant


@dataclass(frozen=True, slots=True)
class Slot:
    """One text to be written for `record`. `asked` is the question it is written for, `variant` the kind of it."""

    record: Record
    question_id: str
    variant: Variant
    asked: str


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a written text is not taken."""

    kind: str
    reason: str


Group = tuple[Slot, ...]


@dataclass(frozen=True)
class Writing:
    """One kind of text. `ask(group, attempt)` makes the prompt, `read(reply, group)` gives one text or None per slot of
    the group, `check(written)` one flaw or None per (slot, text).
    """

    what: str
    ask: Callable[[Group, int], Prompt]
    read: Callable[[str, Group], list[str | None]]
    check: Callable[[Sequence[tuple[Slot, str]]], Sequence[Flaw | None]]


@dataclass(frozen=True)
class Filled:
    texts: dict[Slot, str]
    rejections: tuple[Rejection, ...]


def fill(groups: Sequence[Group], writing: Writing, completer: Completer, attempts: int) -> Filled:
    """Fill every slot, in at most `attempts` rounds. A group is asked for in one prompt at first; what is missing or
    rejected is asked for one by one, a group whose prompt failed once more as a whole.

    Raises GeneratorError when not one prompt brought an answer.
    """
    texts: dict[Slot, str] = {}
    rejections: dict[Slot, list[Rejection]] = {slot: [] for group in groups for slot in group}
    waiting = list(groups)
    completions: list[Completion] = []
    for attempt in range(attempts):
        if not waiting:
            break
        replies = completer.complete([writing.ask(group, attempt) for group in waiting])
        completions += replies
        taken, refused = _look_at(list(zip(waiting, replies, strict=True)), writing)
        texts.update(taken)
        for slot, text, flaw in refused:
            rejections[slot].append(_rejection(slot, text, flaw, attempt))
        waiting = [
            again for group, reply in zip(waiting, replies, strict=True) for again in _groups_again(group, reply, texts)
        ]
    if completions and not any(completion.ok for completion in completions):
        raise GeneratorError(
            f"no {writing.what} was written: all {len(completions)} prompts failed, the last with "
            f"{completions[-1].error}",
            where="synthesis",
            way_out="see that the generator answers, then start again",
        )
    return Filled(texts, tuple(_with_final(rejections, texts)))


def _look_at(
    answered: list[tuple[Group, Completion]], writing: Writing
) -> tuple[dict[Slot, str], list[tuple[Slot, str, Flaw]]]:
    """What is taken, and what is not with its flaw."""
    refused: list[tuple[Slot, str, Flaw]] = []
    written: list[tuple[Slot, str]] = []
    for group, reply in answered:
        if reply.error is not None:
            refused += [(slot, "", Flaw("error", f"the generator failed: {reply.error}")) for slot in group]
            continue
        for slot, text in zip(group, writing.read(reply.text, group), strict=True):
            if text is None:
                refused.append(
                    (slot, reply.text, Flaw("unparsed", "the reply holds no entry for it, or a doubtful one"))
                )
            else:
                written.append((slot, text))
    taken: dict[Slot, str] = {}
    for (slot, text), flaw in zip(written, writing.check(written), strict=True):
        if flaw is None:
            taken[slot] = text
        else:
            refused.append((slot, text, flaw))
    return taken, refused


def _groups_again(group: Group, reply: Completion, texts: dict[Slot, str]) -> list[Group]:
    if not reply.ok:
        return [group]
    return [(slot,) for slot in group if slot not in texts]


def _rejection(slot: Slot, text: str, flaw: Flaw, attempt: int) -> Rejection:
    return Rejection(
        slot.record.id, slot.question_id, slot.variant, slot.asked, text, attempt, reason=flaw.reason, kind=flaw.kind
    )


def _with_final(rejections: dict[Slot, list[Rejection]], texts: dict[Slot, str]) -> list[Rejection]:
    """In the order of slots and attempts; the last of a slot that stayed empty is final."""
    ordered: list[Rejection] = []
    for slot, of_slot in rejections.items():
        if of_slot and slot not in texts:
            of_slot = [*of_slot[:-1], replace(of_slot[-1], final=True)]
        ordered += of_slot
    return ordered


_QUOTES = {'"': '"', "“": "”", "'": "'", "‘": "’"}


def read_labelled(reply: str, labels: Sequence[str]) -> list[str | None]:
    """The entries of a reply of the form "label: text", one per label of `labels` and in their order; None if missing.

    Labels are "1", "2", ... or words. Missing is: a label that is absent or comes twice, an entry without text, and one
    that runs on over the next line (a remark after an empty line is passed over). A number that was not asked for makes
    the whole reply unreadable, because then nothing says which entry belongs to which question; a word is passed over.
    """
    numbered = all(label.isdigit() for label in labels)
    pattern = _entry_pattern(r"\d{1,3}" if numbered else "[a-z]{3,12}")
    found: dict[str, str | None] = {}
    open_label: str | None = None
    for line in reply.splitlines():
        line = line.strip()
        match = pattern.match(_without_emphasis(line))
        if match is not None:
            label = match["label"].lower()
            found[label] = None if label in found else _unquoted(match["text"])
            open_label = label
        elif not line:
            open_label = None
        elif open_label is not None:
            found[open_label] = None
    if numbered and not set(found) <= set(labels):
        return [None] * len(labels)
    return [found.get(label.lower()) or None for label in labels]


def read_passage(reply: str, prefix: str) -> str | None:
    """A reply that is one running text, without an echo of `prefix` at its head; None when nothing is left."""
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
    """A line set in bold as a whole, without the marks."""
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
    """The prompt of prompts/<name>.txt with `values` put in, in one pass: a "$" or brace in a value stays as it is."""
    return Template(_template(name)).substitute(values).strip()


def prompt_lines(name: str, drop: tuple[str, ...], **values: str) -> str:
    """The same without the lines that begin with one of the words in `drop` and a colon."""
    unwanted = tuple(f"{word}:" for word in drop)
    kept = [line for line in _template(name).splitlines() if not line.startswith(unwanted)]
    return Template("\n".join(kept)).substitute(values).strip()
