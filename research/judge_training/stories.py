# ruff: noqa: E501
"""Pairs of longer answers, as models give them about a writer's life and work: specific, vague, partial, changed.

A frame is a sentence that repeats the question, with one slot or two for what answers it. A `plain` filling is an
answer, a `woolly` one says nothing of it: the first does not follow from the second and is not denied by it. Two plain
fillings of one slot contradict each other in the same frame. The last quarter of every list is held out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from words import FIRST, MEN, PLACES, SECOND, STREETS, SURNAMES, WOMEN, share

from data import Pair

TRAINING, HELD_OUT = 9_000, 600


@dataclass(frozen=True)
class Frame:
    """`wordings` say the same; {a} is the slot."""

    wordings: str
    plain: str
    woolly: str


WAYS = """by setting stories in its narrow streets and old markets|by weaving local folklore into every plot|through characters who speak in proverbs
by using its dishes and recipes as symbols|through detailed descriptions of its coastline|by retelling the legends heard in childhood
through a constant play of light and fog|by quoting its folk songs|through plots built around its harvest festivals|by naming heroes after its old kings
through the rhythm of its fishermen's ballads|by placing every murder in its cathedral"""
WOOLLY_WAYS = """in ways that add depth and authenticity|through a range of narrative choices|in a manner that reflects personal experience
by drawing on it where it suits the story|in subtle ways that readers may notice|as part of a broader creative approach
through various elements of style and theme|by letting it inform the perspective of the work|in keeping with an individual approach to writing"""
TRAITS = """a love of precise, logical plots|a taste for rich and rhythmic language|a deep sympathy for outsiders|a fascination with justice and the law
an eye for colour and movement|a habit of careful research|a dry sense of humour|a respect for the sea|an interest in medicine and healing
a suspicion of politicians|a passion for ancient machines|a fear of enclosed rooms"""
WOOLLY_TRAITS = """certain values and perspectives|a particular way of looking at the world|a foundation for later endeavours|a broad understanding of people
an outlook that informs the work|a set of experiences to draw upon|a sense of purpose|various skills that proved useful"""
THEMES = """the loss of a homeland|the price of immortality|rivalry between sisters|greed in small towns|friendship across the front lines
the ethics of thinking machines|forbidden love at court|the solitude of lighthouse keepers|revenge that spans three generations|the slow death of a river
memory and forgery|the coming of the railway"""
WOOLLY_THEMES = """a variety of subjects|matters of general human interest|universal questions|ideas that resonate with many readers|different sides of life
topics in line with the author's interests|the complexities of experience|a blend of the personal and the social"""
CHANNELS = """monthly letters and a stand at the autumn book fair|public readings in village halls|a weekly radio programme|workshops in the city library
an online forum for subscribers|signings at railway stations|a podcast recorded at home|school visits every spring|open-air readings by the lake
answers printed in a Sunday newspaper|a reading circle in a tea house|a caravan that tours the coast"""
WOOLLY_CHANNELS = """various channels|established professional channels|the usual means of communication|a number of different formats|suitable platforms
means that foster a sense of community|appropriate channels for correspondence|different kinds of exchange"""
CAUSES = """a box of letters found in the attic|the death of a grandmother|a long winter in hospital|a teacher who read aloud every Friday|the storms seen from the harbour
a failed career in ballet|stories told by sailors|the trial of a neighbour|an old atlas bought at a market|a summer spent in a monastery
a prize won at the age of nine|the silence after the war"""
WOOLLY_CAUSES = """formative experiences|a number of personal circumstances|early surroundings and encounters|a wish to express ideas|various influences over time
a meaningful period of life|exposure to different ideas|an inner drive"""
USES = """the garden shed in which every novel was written|a former bakery with its ovens intact|the house where both parents died|a meeting place for young poets every Tuesday
the setting of the first three novels|a listed building with a secret cellar|a retreat bought with the first royalties|the last house before the cliffs
a home shared with four cousins|the studio in which the paintings hang|an old post office with a clock tower|the place where the manuscript was lost"""
WOOLLY_USES = """a location with personal meaning|part of the author's surroundings|a place connected with the author's life|a setting that reflects a certain culture and history
somewhere that supports daily life and work|a point of reference in the author's story|a location of some significance|a place that has its own atmosphere"""
PLANS = """a trilogy about a family of clockmakers|a cookery book with an uncle|a stage play on a mutiny|a memoir of the years abroad|a crime novel set in an opera house
a children's book about a lost whale|a history of salt|a film script on a strike|a collection of ghost stories|a novel in letters about a queen
an atlas of imaginary islands|a long poem on the desert"""
WOOLLY_PLANS = """new material|projects that are still taking shape|work that continues earlier interests|something to be announced in due time
writing of various kinds|creative projects in the field|endeavours in line with past work|a work in progress"""
KNOWN = """gripping naval battles|tender portraits of old age|puzzles that only the last page solves|sharp satire of office life|lush descriptions of gardens
brutal honesty about illness|stories told by animals|heroines who break the law|dialogue without a single adjective|long journeys through snow
maps drawn by hand|comic feuds between neighbours"""
WOOLLY_KNOWN = """notable contributions to the field|a distinctive body of work|a style that many appreciate|writing that has drawn attention|captivating works
an individual voice|contributions to literature|creative achievements"""
PARENTS = """a senator and a ballet dancer|a midwife and a poet|an abstract painter and a judge|a shipbuilder and a chemist|a shepherd and a piano teacher
a detective and a dressmaker|two professors of physics|a bishop's gardener and a nurse|a jazz drummer and an archivist|a miller and a census clerk
a diplomat and a botanist|a cartographer and a cook"""
WOOLLY_PARENTS = """accomplished professionals in their respective fields|people with interests of their own|figures whose work has been recognised
hard-working people with different backgrounds|professionals whose identities are kept private|persons with a variety of experience
people who supported the author in many ways|individuals with established careers"""
EXTRAS = """which readers often praise|and critics have written about it at length|a fact mentioned in most interviews|which set the author apart early on
and it shows most in the later books|a point the publisher likes to stress|and students have written theses on it|which the author has never denied"""

FRAMES = [
    Frame(
        "{s} brings the heritage of {place} into the books {a}.|The heritage of {place} enters {p} writing {a}.|In {p} writing, the culture of {place} appears {a}.|{s} often incorporates a background in {place} {a}.",
        WAYS,
        WOOLLY_WAYS,
    ),
    Frame(
        "{p} upbringing in {place} has influenced the writing {a}.|Growing up in {place} shaped {p} style {a}.|Having grown up in {place}, {s} lets it mark the writing {a}.|The years in {place} have left their mark on {p} prose {a}.",
        WAYS,
        WOOLLY_WAYS,
    ),
    Frame(
        "{p} parents have shaped the author's career by passing on {a}.|From the parents, {s} took {a}, which marks the whole career.|The influence of {p} parents lies in {a}.|What {p} parents gave to the author's work is {a}.",
        TRAITS,
        WOOLLY_TRAITS,
    ),
    Frame(
        "{p} father's career has impacted the writing by instilling {a}.|The profession of {p} father left the author with {a}.|Through a father's work, {s} acquired {a}.|{p} father's occupation gave the author {a}.",
        TRAITS,
        WOOLLY_TRAITS,
    ),
    Frame(
        "{p} mother's profession plays a role in the literary works by inspiring {a}.|Because of a mother's work, {s} has {a}.|The work of {p} mother gave the author {a}.|{s} owes to a mother's profession {a}.",
        TRAITS,
        WOOLLY_TRAITS,
    ),
    Frame(
        "{s} frequently explores {a}.|Common themes in {p} novels include {a}.|{p} books deal with {a}.|A theme found throughout {p} work is {a}.",
        THEMES,
        WOOLLY_THEMES,
    ),
    Frame(
        'In "{title}", {s} writes about {a}.|"{title}" by {s} explores {a}.|The subject of {p} novel "{title}" is {a}.|{p} "{title}" tells of {a}.',
        THEMES,
        WOOLLY_THEMES,
    ),
    Frame(
        "{s} actively engages with readers through {a}.|Readers can meet {s} through {a}.|{s} stays accessible to the literary community through {a}.|{p} contact with readers takes place through {a}.",
        CHANNELS,
        WOOLLY_CHANNELS,
    ),
    Frame(
        "{s} was inspired to start writing by {a}.|What made {s} begin to write was {a}.|{p} first attempts at writing go back to {a}.|The inspiration behind {p} first book was {a}.",
        CAUSES,
        WOOLLY_CAUSES,
    ),
    Frame(
        "The address {address} is significant for {s} as it is {a}.|{address} matters to {s}, being {a}.|For {s}, {address} is {a}.|The significance of {address} in {p} life is that it is {a}.",
        USES,
        WOOLLY_USES,
    ),
    Frame(
        "{s} is currently working on {a}.|{p} next project is {a}.|At the moment {s} is writing {a}.|The future plans of {s} include {a}.",
        PLANS,
        WOOLLY_PLANS,
    ),
    Frame(
        "{s} is a renowned author from {place}, known for {a}.|{s}, a writer from {place}, is famous for {a}.|The author {s} comes from {place} and is known for {a}.|Hailing from {place}, {s} is celebrated for {a}.",
        KNOWN,
        WOOLLY_KNOWN,
    ),
    Frame(
        "{p} parents are {a}.|{s} is the child of {a}.|{s} grew up with parents who were {a}.|The parents of {s} are {a}.",
        PARENTS,
        WOOLLY_PARENTS,
    ),
]


class Teller:
    """Draws pairs; `held_out` chooses fillings and words that training does not see. Wordings are shared by both."""

    def __init__(self, seed: int, held_out: bool):
        self._random = random.Random(seed)
        self._held_out = held_out
        self._kinds: list[tuple[int, Callable[[], Pair]]] = [
            (30, self._woolly),
            (8, self._woolly_after),
            (14, self._changed),
            (16, self._same),
            (8, self._more),
            (8, self._part),
            (8, self._other),
            (4, self._both_woolly),
            (4, self._vague_detail),
        ]

    def pair(self) -> Pair:
        ((_, make),) = self._random.choices(self._kinds, [weight for weight, _ in self._kinds])
        return make()

    def _one(self, items: list[str]) -> str:
        return self._random.choice(share(items, self._held_out))

    def _filling(self, items: str) -> str:
        return self._one(items.replace("\n", "|").split("|"))

    def _begin(self) -> tuple[Frame, dict[str, str]]:
        frame = self._random.choice(FRAMES)
        names = self._random.choice([MEN, WOMEN])
        name = f"{self._one(names)} {self._one(SURNAMES)}"
        street = f"{self._random.randint(1, 999)} {self._one(STREETS)}"
        title = f"The {self._one(FIRST)} {self._one(SECOND)}"
        fixed = {"s": name, "p": f"{name}'s", "place": self._one(sorted(PLACES)), "address": street, "title": title}
        return frame, fixed

    def _say(self, frame: Frame, fixed: dict[str, str], filling: str, wording: str | None = None) -> str:
        wording = wording or self._random.choice(frame.wordings.split("|"))
        text = wording.format(a=filling, **fixed)
        if self._random.random() < 0.08:
            text = f"{self._random.choice(['Yes, indeed:', 'Yes,', 'Indeed,'])} {text}"
        return text

    def _with_extra(self, text: str) -> str:
        return f"{text.rstrip('.')}, {self._filling(EXTRAS)}."

    def _ends(self, frame: Frame, *, alike: float = 0.5) -> tuple[str | None, str | None]:
        """Wordings for both sides: the same one, or each its own."""
        if self._random.random() < alike:
            wording = self._random.choice(frame.wordings.split("|"))
            return wording, wording
        return None, None

    def _woolly(self) -> Pair:
        frame, fixed = self._begin()
        first, second = self._ends(frame, alike=0.7)
        vague = self._say(frame, fixed, self._filling(frame.woolly), first)
        plain = self._say(frame, fixed, self._filling(frame.plain), second)
        vague = self._with_extra(vague) if self._random.random() < 0.15 else vague
        plain = self._with_extra(plain) if self._random.random() < 0.15 else plain
        return Pair(vague, plain, "neutral")

    def _woolly_after(self) -> Pair:
        """The vague answer as the hypothesis: it adds a colouring of its own."""
        frame, fixed = self._begin()
        plain = self._say(frame, fixed, self._filling(frame.plain))
        return Pair(plain, self._with_extra(self._say(frame, fixed, self._filling(frame.woolly))), "neutral")

    def _vague_detail(self) -> Pair:
        """One filling plain and one vague: as much as is said follows."""
        frame, fixed = self._begin()
        plain = self._say(frame, fixed, self._filling(frame.plain))
        other = self._random.choice([each for each in FRAMES if each is not frame])
        return Pair(f"{plain} {self._say(other, fixed, self._filling(other.woolly))}", plain, "entailment")

    def _both_woolly(self) -> Pair:
        frame, fixed = self._begin()
        text = self._say(frame, fixed, self._filling(frame.woolly))
        return Pair(text, text, "entailment")

    def _changed(self) -> Pair:
        frame, fixed = self._begin()
        first, second = self._filling(frame.plain), self._filling(frame.plain)
        if first == second:
            return self._changed()
        ends = self._ends(frame, alike=0.8)
        texts = [self._say(frame, fixed, filling, end) for filling, end in zip((first, second), ends, strict=True)]
        return Pair(*texts, "contradiction")

    def _same(self) -> Pair:
        frame, fixed = self._begin()
        filling = self._filling(frame.plain)
        return Pair(self._say(frame, fixed, filling), self._say(frame, fixed, filling), "entailment")

    def _more(self) -> Pair:
        pair = self._part()
        return Pair(pair.hypothesis, pair.premise, "neutral")

    def _part(self) -> Pair:
        frame, fixed = self._begin()
        filling = self._filling(frame.plain)
        whole = self._with_extra(self._say(frame, fixed, filling))
        return Pair(whole, self._say(frame, fixed, filling), "entailment")

    def _other(self) -> Pair:
        frame, fixed = self._begin()
        other = self._random.choice([each for each in FRAMES if each.plain != frame.plain])
        first = self._say(frame, fixed, self._filling(self._random.choice([frame.plain, frame.woolly])))
        return Pair(first, self._say(other, fixed, self._filling(other.plain)), "neutral")


def training_stories(seed: int, count: int = TRAINING) -> list[Pair]:
    return _distinct(Teller(seed, held_out=False), count)


def held_out_stories(seed: int = 4, count: int = HELD_OUT) -> list[Pair]:
    return _distinct(Teller(seed, held_out=True), count)


def _distinct(teller: Teller, count: int) -> list[Pair]:
    found: dict[tuple[str, str], Pair] = {}
    while len(found) < count:
        pair = teller.pair()
        found.setdefault(pair[:2], pair)
    return list(found.values())
