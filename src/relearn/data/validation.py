"""Load and validate the record sets of a recipe: overlap between sets, special tokens, lengths.

`load_all` reads every set of a recipe. `check_special_tokens` and `check_lengths` need a tokenizer and are called after
it is loaded. Error messages contain the place and the question, never an answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from relearn.core.config import Data, Sources
from relearn.core.errors import InputError
from relearn.data.columns import glimpse
from relearn.data.loaders import read_records
from relearn.data.record import Record, Split, begins_text, content_id

Places = Mapping[str, str]  # record id -> place in the data file

# (field of DataSet, name in the recipe, split of its records)
_SETS: tuple[tuple[str, str, Split], ...] = (
    ("forget", "data.forget", "forget"),
    ("retain", "data.retain", "retain"),
    ("holdout", "data.holdout", "holdout"),
    ("generic", "data.generic", "generic"),
    ("probes_forget", "data.probes.forget", "forget"),
    ("probes_retain", "data.probes.retain", "retain"),
    ("real_authors", "data.utility.real_authors", "retain"),
    ("world_facts", "data.utility.world_facts", "retain"),
)
# Sets of which a sample is enough: training draws from them, beside the forget set.
_SAMPLED = ("data.retain", "data.generic")
_TO_FORGET = ("forget", "probes_forget")
_NOT_TO_FORGET = ("retain", "probes_retain", "generic", "holdout", "real_authors", "world_facts")


@dataclass(frozen=True)
class DataSet:
    """Store all records of a run.

    `notes`: messages on merged duplicates and on probes that are not held out. `places`: set name -> record id -> place
    that the record was read from.
    """

    forget: tuple[Record, ...]
    retain: tuple[Record, ...] = ()
    holdout: tuple[Record, ...] = ()
    generic: tuple[Record, ...] = ()
    probes_forget: tuple[Record, ...] = ()
    probes_retain: tuple[Record, ...] = ()
    real_authors: tuple[Record, ...] = ()
    world_facts: tuple[Record, ...] = ()
    notes: tuple[str, ...] = ()
    places: Mapping[str, Places] = field(default_factory=dict)

    def sets(self) -> Iterator[tuple[str, tuple[Record, ...]]]:
        """Yield (name, records) of every set that has records."""
        for name, _, _ in _SETS:
            if records := getattr(self, name):
                yield name, records


def load_all(data: Data) -> DataSet:
    """Read and validate every record set of a recipe.

    Raises InputError for a source that cannot be read, and for a record that is in a set to forget and in another set.
    """
    notes: list[str] = []
    sets: dict[str, tuple[Record, ...]] = {}
    places: dict[str, Places] = {}
    for name, label, split in _SETS:
        sources: Sources = attrgetter(label.removeprefix("data."))(data)
        sets[name], places[name] = load_set(sources, split, label, notes)
    _refuse_overlap(sets, places)
    for trained, probes in (("forget", "probes_forget"), ("retain", "probes_retain")):
        questions = {normalised(record.question) for record in sets[trained]}
        if seen := sum(normalised(record.question) in questions for record in sets[probes]):
            notes.append(f"{probes}: {_count(seen, 'question')} also in {trained}, so not held out")
    return DataSet(**sets, notes=tuple(notes), places=places)


def load_set(
    sources: Sources, split: Split, label: str = "data", notes: list[str] | None = None
) -> tuple[tuple[Record, ...], Places]:
    """Read the records of one set; return them and the place of each.

    Exact duplicates are merged, and of a large retain or generic set a sample is read (`read_records`); messages on
    both are appended to `notes`. Raises InputError for a source that cannot be read, and for two different rows with
    the same id.
    """
    records: dict[str, Record] = {}
    places: dict[str, str] = {}
    merged: list[tuple[str, str]] = []
    for source in sources:
        for place, record in read_records(source, split, notes, sample=label in _SAMPLED):
            earlier = records.get(record.id)
            if earlier is None:
                records[record.id], places[record.id] = record, place
            elif record.id == content_id(record.question, record.answer):
                merged.append((place, places[record.id]))
            else:
                problem = f"the id {glimpse(record.id)} is already that of {places[record.id]}"
                raise InputError(
                    problem, where=place, way_out="ids are unique within a set; rows may also come without"
                )
    if merged and notes is not None:
        later, first = merged[0]
        notes.append(f"{label}: {_count(len(merged), 'exact duplicate')} merged (the first: {later} repeats {first})")
    passages = [
        place for record, place in zip(records.values(), places.values(), strict=True) if _is_turned(record, place)
    ]
    if passages and notes is not None:
        how = f"the model continues them (the first: {passages[0]})"
        notes.append(f"{label}: questions that ask nothing: {len(passages)} that begin a text are passages, {how}")
    return tuple(records.values()), places


def _is_turned(record: Record, place: str) -> bool:
    """Return whether a record is a passage because its question begins a text, and is no part of a document."""
    return record.form == "text" and " words " not in place and begins_text(record.question, record.answer)


def normalised(text: str) -> str:
    """Normalise a text for the search for duplicates: lower case, single spaces, no punctuation at the end."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(plain.casefold().split()).rstrip(" .?!")


def _keyed(records: Iterable[Record]) -> dict[tuple[str, str], Record]:
    return {(normalised(record.question), normalised(record.answer)): record for record in records}


def _refuse_overlap(sets: Mapping[str, tuple[Record, ...]], places: Mapping[str, Places]) -> None:
    """Raise InputError for a record that is in a set to forget and, in other words or not, in another set."""
    to_forget = {name: _keyed(sets[name]) for name in _TO_FORGET}
    for other in _NOT_TO_FORGET:
        to_keep = _keyed(sets[other])
        for forget, keyed in to_forget.items():
            if not (both := [(record, to_keep[key]) for key, record in keyed.items() if key in to_keep]):
                continue
            first, second = both[0]
            more = f", and {len(both) - 1} more" if len(both) > 1 else ""
            problem = (
                f"the question {glimpse(first.question)} with this answer is in {forget} and in {other} "
                f"({places[other][second.id]}){more}"
            )
            raise InputError(problem, where=places[forget][first.id], way_out="take it out of one of them")


def check_special_tokens(records: Iterable[Record], special: Collection[str], places: Places | None = None) -> None:
    """Raise InputError for a record whose text contains a special token of the model ("<|im_end|>", "</s>")."""
    tokens = sorted((token for token in special if token.strip()), key=len, reverse=True)
    if not tokens:
        return
    found_in = re.compile("|".join(map(re.escape, tokens))).search
    for record in records:
        for name, text in _texts(record):
            if found := found_in(text):
                problem = f"the {name} holds the model's special token {found[0]!r}"
                raise InputError(problem, where=_place(record, places), way_out="remove it from the text")


def check_lengths(
    records: Iterable[Record], count_tokens: Callable[[str], int], limit: int, places: Places | None = None
) -> None:
    """Raise InputError for a record whose question and answer together have more than `limit` tokens."""
    added = 2 * (count_tokens("") + 1)  # special tokens and a leading space, twice
    for record in records:
        # An ASCII text has at most one token per character, so most records need not be counted.
        if len(record.question) + len(record.answer) + added <= limit and (record.question + record.answer).isascii():
            continue
        answer = count_tokens(record.answer)
        question = count_tokens(record.question)
        if question + answer > limit:
            tokens = f"has {answer} tokens, the question {question}, the limit is {limit}"
            way_out = "raise unlearn.max_length, or give the passage as a document (a row with `text` alone)"
            problem = f"the answer to {glimpse(record.question)} {tokens}"
            raise InputError(problem, where=_place(record, places), way_out=way_out)


def _texts(record: Record) -> Iterator[tuple[str, str]]:
    yield "question", record.question
    yield "answer", record.answer
    for paraphrase in record.paraphrases:
        yield "paraphrase", paraphrase
    for alternative in (*record.alternatives, *record.choices, record.paraphrased_answer or ""):
        yield "alternative answer", alternative


def _place(record: Record, places: Places | None) -> str:
    return (places or {}).get(record.id) or record.source or f"question {glimpse(record.question)}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
