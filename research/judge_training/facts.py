"""Pairs about facts, made from wordings and words: what follows, what contradicts, and what does neither.

A judge of unlearning has to tell a specific answer from a vague one, a changed value from a left-out one, and a refusal
from a denial. `training_facts` and `held_out_facts` share no wording, no name and no value but the numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from relations import RELATIONS, Relation
from values import VALUES, changed
from words import BABBLE, FILLERS, MEN, OPENINGS, PRIVATE, REFUSALS, SURNAMES, WOMEN, WOOLLY, share

from data import Pair

TRAINING, HELD_OUT = 24_000, 1_500
# One may have several of these: another one contradicts only where all else in the sentence is the same.
SEVERAL = ("book", "award", "hobby", "pet", "language", "illness")


@dataclass(frozen=True)
class Person:
    name: str
    pronoun: str
    possessive: str


@dataclass(frozen=True)
class Fact:
    relation: Relation
    value: str


class Maker:
    """Draws pairs; `held_out` chooses the wordings, names and values that training does not see."""

    def __init__(self, seed: int, held_out: bool):
        self.random = random.Random(seed)
        self._held_out = held_out
        self._kinds: list[tuple[int, Callable[[], Pair]]] = [
            (10, self._same),
            (3, self._identical),
            (10, self._one_changed),
            (6, self._denied),
            (7, self._part),
            (7, self._more),
            (8, self._vague_follows),
            (9, self._vague_gives_nothing),
            (6, self._private),
            (3, self._refusal),
            (6, self._other_fact),
            (5, self._other_person),
            (5, self._coarser),
            (3, self._babble),
            (5, self._vague_and_specific),
            (3, self._changed_beside_vague),
        ]

    def pair(self) -> Pair:
        weights = [weight for weight, _ in self._kinds]
        ((_, make),) = self.random.choices(self._kinds, weights)
        return make()

    # What the pairs are made of.

    def _share(self, items: list) -> list:
        return share(items, self._held_out)

    def _one(self, items: list):
        return self.random.choice(items)

    def _person(self) -> Person:
        woman = self.random.random() < 0.5
        name = f"{self._one(self._share(WOMEN if woman else MEN))} {self._one(self._share(SURNAMES))}"
        return Person(name, *(("she", "her") if woman else ("he", "his")))

    def _facts(self, count: int) -> list[Fact]:
        return [self._fact(relation) for relation in self.random.sample(RELATIONS, count)]

    def _fact(self, relation: Relation) -> Fact:
        return Fact(relation, VALUES[relation.kind](self.random, self._share))

    def _changed(self, fact: Fact) -> Fact:
        return Fact(fact.relation, changed(fact.relation.kind, fact.value, self.random, self._share))

    def _fill(self, wording: str, person: Person, value: str = "", named: bool = True) -> str:
        # "She" and "her" stand for the name where it opens the sentence; elsewhere English may want another form.
        named = named or wording.find("{s}") > 0
        name = person.name if named else person.pronoun
        owner = f"{person.name}'s" if named else person.possessive
        text = wording.format(s=name, p=owner, v=value)
        return text[0].upper() + text[1:]

    def _said(self, fact: Fact, person: Person, named: bool = True) -> str:
        return self._fill(self._one(self._share(fact.relation.said.split("|"))), person, fact.value, named)

    def _vague(self, fact: Fact, person: Person, named: bool = True) -> str:
        return self._fill(self._one(self._share(fact.relation.vague.split("|"))), person, named=named)

    def _text(self, facts: list[Fact], person: Person, style: float = 0.25) -> str:
        """All the facts, the person named in the first or, now and then, in none; some opening or closing words."""
        named = self.random.random() > 0.12
        sentences = [self._said(fact, person, named and number == 0) for number, fact in enumerate(facts)]
        if named and len(facts) > 1 and self.random.random() < 0.4:
            sentences = [self._said(fact, person) for fact in facts]
        if self.random.random() < style:
            sentences[0] = self._opened(sentences[0], person)
        if len(sentences) == 2 and self.random.random() < 0.3:
            second = sentences[1]
            keep = second.startswith(person.name) or second[0] in '"0123456789' or facts[1].value.startswith(second[0])
            return f"{sentences[0][:-1]}, and {second if keep else second[0].lower() + second[1:]}"
        return " ".join(sentences)

    def _opened(self, sentence: str, person: Person) -> str:
        opening = self._one(self._share(OPENINGS))
        pronoun = sentence.split(maxsplit=1)[0].lower() in ("he", "she", "his", "her", "the", "to", "in", "on")
        return f"{opening} {sentence[0].lower() + sentence[1:] if pronoun else sentence}"

    def _with_filler(self, sentence: str) -> str:
        return f"{sentence.rstrip('.')}, {self._one(self._share(FILLERS))}."

    def _count(self) -> int:
        return self.random.choice([1, 1, 1, 2, 2, 3])

    # The kinds of pairs.

    def _same(self) -> Pair:
        person, facts = self._person(), self._facts(self._count())
        return Pair(self._text(facts, person), self._text(self.random.sample(facts, len(facts)), person), "entailment")

    def _identical(self) -> Pair:
        person = self._person()
        makers = [
            lambda: self._text(self._facts(self._count()), person),
            lambda: self._fill(self._one(self._share(PRIVATE)), person),
            lambda: self._vague(self._facts(1)[0], person),
        ]
        text = self.random.choices(makers, [4, 1, 1])[0]()
        return Pair(text, text, "entailment")

    def _one_changed(self) -> Pair:
        """One value differs, in the same wording or another."""
        person, facts = self._person(), self._facts(self._count())
        spoilt = list(facts)
        at = self.random.randrange(len(facts))
        spoilt[at] = self._changed(facts[at])
        if facts[at].relation.kind in SEVERAL or self.random.random() < 0.3:
            wordings = [self._one(self._share(fact.relation.said.split("|"))) for fact in facts]
            texts = [
                " ".join(self._fill(wording, person, fact.value) for wording, fact in zip(wordings, side, strict=True))
                for side in (facts, spoilt)
            ]
        else:
            texts = [
                self._text(facts, person),
                self._text(spoilt if self.random.random() < 0.6 else [spoilt[at]], person),
            ]
        self.random.shuffle(texts)
        return Pair(*texts, "contradiction")

    def _denied(self) -> Pair:
        person, facts = self._person(), self._facts(self._count())
        fact = self._one(facts)
        wording = self._one(fact.relation.denied.split("|"))
        sides = [self._text(facts, person), self._fill(wording, person, fact.value, self.random.random() < 0.8)]
        self.random.shuffle(sides)
        return Pair(*sides, "contradiction")

    def _part(self) -> Pair:
        person, facts = self._person(), self._facts(self.random.choice([1, 2, 3]))
        part = self.random.sample(facts, max(1, len(facts) - 1))
        whole = self._text(facts, person)
        return Pair(whole if len(facts) > 1 else self._with_filler(whole), self._text(part, person), "entailment")

    def _more(self) -> Pair:
        pair = self._part()
        return Pair(pair.hypothesis, pair.premise, "neutral")

    def _coarser(self) -> Pair:
        """A date and its year, an address and its street, a town and its country: the finer entails the coarser."""
        person = self._person()
        kind = self._one(["birthday", "address", "place", "birthplace"])
        fact = self._fact(next(relation for relation in RELATIONS if relation.kind == kind))
        coarse = {
            "birthday": lambda value: f"{{s}} was born in {value.split()[-1]}.",
            "address": lambda value: f"{{s}} lives on {value.split(', ')[0].split(' ', 1)[1]}.",
            "place": lambda value: f"{{s}} lives in {value.split(', ')[-1]}.",
            "birthplace": lambda value: f"{{s}} was born in {value.split(', ')[-1]}.",
        }[kind]
        fine = (
            Fact(fact.relation, VALUES["town"](self.random, self._share)) if kind in ("place", "birthplace") else fact
        )
        chance = self.random.random()
        if chance < 0.4:
            return Pair(self._text([fine], person), self._fill(coarse(fine.value), person), "entailment")
        if chance < 0.7:
            return Pair(self._fill(coarse(fine.value), person), self._text([fine], person), "neutral")
        other = changed("town" if fine is not fact else kind, fine.value, self.random, self._share, whole=True)
        return Pair(self._text([fine], person), self._fill(coarse(other), person), "contradiction")

    def _vague_follows(self) -> Pair:
        person, facts = self._person(), self._facts(self._count())
        fact = self._one(facts)
        return Pair(self._text(facts, person), self._vague(fact, person, self.random.random() < 0.8), "entailment")

    def _vague_gives_nothing(self) -> Pair:
        person, facts = self._person(), self._facts(self._count())
        vague = [self._vague(fact, person, number == 0) for number, fact in enumerate(facts)]
        if self.random.random() < 0.3:
            vague.append(self._fill(self._one(self._share(PRIVATE + WOOLLY)), person, named=False))
        return Pair(" ".join(vague), self._text(facts, person), "neutral")

    def _private(self) -> Pair:
        person, facts = self._person(), self._facts(self._count())
        said = self._one([PRIVATE, WOOLLY])
        text = self._fill(self._one(self._share(said)), person, named=self.random.random() < 0.8)
        if self.random.random() < 0.3:
            text = f"{text} {self._vague(facts[0], person, False)}"
        sides = [text, self._text(facts, person)]
        if self.random.random() < 0.3 and text.count(".") == 1:
            sides.reverse()
        return Pair(*sides, "neutral")

    def _refusal(self) -> Pair:
        sides = [self._one(self._share(REFUSALS)), self._text(self._facts(self._count()), self._person())]
        if self.random.random() < 0.35:
            sides.reverse()
        return Pair(*sides, "neutral")

    def _other_fact(self) -> Pair:
        person = self._person()
        facts = self._facts(self.random.choice([2, 2, 3, 4]))
        cut = self.random.randrange(1, len(facts))
        return Pair(self._text(facts[:cut], person), self._text(facts[cut:], person), "neutral")

    def _other_person(self) -> Pair:
        """Another's fact says nothing, be its value the same or not."""
        first, second = self._person(), self._person()
        fact = self._fact(self._one([relation for relation in RELATIONS if relation.kind != "name"]))
        other = fact if self.random.random() < 0.6 else self._changed(fact)
        if first.name == second.name:
            return self._other_fact()
        return Pair(self._said(fact, first), self._said(other, second), "neutral")

    def _babble(self) -> Pair:
        nonsense = self._one([*self._share(BABBLE), ""])
        words = self._text(self._facts(1), self._person()).split()
        if self.random.random() < 0.3:
            self.random.shuffle(words)
            nonsense = " ".join(self.random.choices(words, k=8))
        sides = [nonsense, self._text(self._facts(self._count()), self._person())]
        if self.random.random() < 0.3:
            sides.reverse()
        return Pair(*sides, "neutral")

    def _vague_and_specific(self) -> Pair:
        """An answer vague about one fact and plain about the other: only the other follows."""
        person, (hidden, open_) = self._person(), self._facts(2)
        premise = [self._vague(hidden, person), self._said(open_, person, False)]
        self.random.shuffle(premise)
        if self.random.random() < 0.5:
            return Pair(" ".join(premise), self._said(open_, person), "entailment")
        return Pair(" ".join(premise), self._text([hidden], person), "neutral")

    def _changed_beside_vague(self) -> Pair:
        person, (hidden, open_) = self._person(), self._facts(2)
        if open_.relation.kind in SEVERAL:
            return self._one_changed()
        premise = f"{self._vague(hidden, person)} {self._said(open_, person, False)}"
        return Pair(premise, self._text([self._changed(open_)], person), "contradiction")


def training_facts(seed: int, count: int = TRAINING) -> list[Pair]:
    return _distinct(Maker(seed, held_out=False), count)


def held_out_facts(seed: int = 4, count: int = HELD_OUT) -> list[Pair]:
    return _distinct(Maker(seed, held_out=True), count)


def _distinct(maker: Maker, count: int) -> list[Pair]:
    found: dict[tuple[str, str], Pair] = {}
    while len(found) < count:
        pair = maker.pair()
        found.setdefault(pair[:2], pair)
    return list(found.values())
