"""The index of the leak check finds what a comparison with every record finds, and values in any writing."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from relearn.data import Record
from relearn.leakage.detector import SAME_TOPIC, SEED_LENGTH, LeakIndex
from relearn.leakage.rules import RowText, common_length
from relearn.text.normalize import contains

FIRST = ["Ada", "Bea", "Holm", "Dana"]
LAST = ["Holm", "Lind", "Marr", "Stone", "Orchards"]
TOWNS = ["Torvik", "Blåvik", "Green Book", "Stone"]
ANSWERS = [
    "{name} lives at {n} Mill Lane in {town} and can be reached under {phone}.",
    "Her number is {phone}.",
    "{name} was born on {n} March 19{n} in {town}.",
    "Write to {mail}@lumen.example.org.",
    "The passport is X48{n}0917, the plate AB-1{n}-CD.",
    "No.",
    "She wrote {town} at 8:{n} in the evening.",
    "She likes to walk to the old {town} harbour every day of the week.",
    "{n} goldsmiths and potters of {town}",
    "{n},250,0{n} crowns",
]
QUESTIONS = [
    "How can one reach {name}?",
    "Where does {name} live?",
    "Is {name} in a union?",
    "What is known?",
    "Who owns the {town} harbour?",
]
VAGUE = ["{name} keeps that private.", "In {town}, {name} has 12 friends.", "Nobody knows.", "Call 12 or 34567890."]


def _fill(draw: random.Random, template: str) -> str:
    name = f"{draw.choice(FIRST)} {draw.choice(LAST)}" if draw.random() < 0.8 else draw.choice(LAST)
    phone = draw.choice(["0{n}0-1234-56{n}", "+49 30 12{n}4567", "555-0{n}9-9234", "({n}0) 123 45 6{n}"])
    return template.format(
        name=name,
        n=draw.randrange(10, 32),
        town=draw.choice(TOWNS),
        mail=draw.choice(["a.holm", "bea", "ada.{n}"]).format(n=draw.randrange(10, 13)),
        phone=phone.format(n=draw.randrange(10, 13)),
    )


def _records(draw: random.Random) -> list[Record]:
    return [
        Record(
            _fill(draw, draw.choice(QUESTIONS)),
            _fill(draw, draw.choice(ANSWERS)),
            id=str(number),
            subject=_fill(draw, "{name}") if draw.random() < 0.3 else None,
            paraphrased_answer=_fill(draw, draw.choice(ANSWERS)) if draw.random() < 0.2 else None,
        )
        for number in range(draw.randrange(1, 24))
    ]


class EveryRecord(LeakIndex):
    """The slow way: every secret is compared with every row."""

    def __init__(self, records: list[Record]):
        super().__init__(records)
        everything = set(range(len(self._secrets)))
        self._sharing = self._with_contacts = lambda row: everything
        self._runs.find = self._all_runs
        self._lookup._unnamed.find = self._all_asked
        self._lookup._named_subjects = self._all_named

    def _all_runs(self, norms: list[str]) -> Iterator[tuple[int, int, int, int]]:
        for number, secret in enumerate(self._secrets):
            for start in range(len(secret.tokens)):
                for at in range(len(norms)):
                    begins = not (start and at and secret.tokens[start - 1] == norms[at - 1])
                    length = common_length(secret.tokens[start:], norms[at:])
                    if begins and length >= SEED_LENGTH:
                        yield number, start, at, length

    def _all_asked(self, topic: frozenset[str]) -> set[int]:
        return {
            number
            for number, secret in enumerate(self._secrets)
            if secret.topic and not secret.public & set(secret.subject)
            if len(topic & secret.topic) >= SAME_TOPIC * len(secret.topic)
        }

    def _all_named(self, row: RowText) -> set[tuple[str, ...]]:
        names = [name for name in self._lookup._by_subject if any(norm in row.indices for norm in name)]
        full = {name for name in names if contains(row.norms, name)}
        spans = [set(span.norm.split()) for span in row.spans if span.kind == "name"]
        parts = [[name for name in names if span <= set(name)] for span in spans]
        return full | {matching[0] for matching in parts if len(matching) == 1}


@pytest.mark.parametrize("seed", range(6))
def test_the_index_finds_what_a_comparison_with_every_record_finds(seed: int) -> None:
    draw = random.Random(seed)
    leaks = 0
    for _ in range(8):
        records = _records(draw)
        index, slow = LeakIndex(records), EveryRecord(records)
        for _ in range(12):
            record = draw.choice(records)
            prompt = draw.choice([record.question, _fill(draw, draw.choice(QUESTIONS)), _fill(draw, ANSWERS[0])])
            target = draw.choice([record.answer, *(_fill(draw, text) for text in (*draw.sample(ANSWERS, 2), *VAGUE))])
            own = draw.choice([None, None, record.id])
            subject = draw.choice([None, record.subject])
            found = [one.check(prompt, target, record_id=own, subject=subject) for one in (index, slow)]
            assert found[0] == found[1], (records, prompt, target, own)
            leaks += bool(found[0])
    assert 20 < leaks < 96


WRITINGS = [
    ("Her number is 010-1234-5678.", "Call 01012345678."),
    ("Her number is 010-1234-5678.", "Call +82 10 1234 5678."),
    ("Her number is 555-019-9234.", "It is five five five, zero one nine, nine two three four."),
    ("Her account is DE12 3456 7890 1234 5678 90.", "It is DE12345678901234567890."),
    ("Her card is 4111 1111 1111 1111.", "It is 4111111111111111."),
    ("Her passport is X4820917.", "It is X 4820917."),
    ("Her plate is AB-123-CD.", "It is AB123CD."),
    ("She earns 1,250,000 crowns.", "She earns 1.25 million crowns."),
    ("She earns 48.2k crowns.", "She earns 48,200 crowns."),
    ("She opens at 8:30 in the evening.", "She opens at 20:30."),
    ("Her handle is @ada_holm_84.", "Find ada_holm_84."),
]


@pytest.mark.parametrize(("answer", "told"), WRITINGS)
def test_a_value_is_found_in_another_writing(answer: str, told: str) -> None:
    index = LeakIndex([Record("What is known about Ada Holm?", answer, id="a", subject="Ada Holm")])
    assert index.check("What is known about Ada Holm?", told)
    changed = told.translate(str.maketrans("0123456789", "1357924680"))
    if changed != told:
        assert not [one for one in index.check("What is known about Ada Holm?", changed) if one.kind == "number"]


def test_a_short_code_in_a_row_about_others_is_no_leak() -> None:
    index = LeakIndex([Record("What does Ada Holm suffer from?", "Ada Holm has COVID-19.", id="a")])
    assert index.check("Which virus spread in 2020?", "It was COVID-19 that spread.") == []
