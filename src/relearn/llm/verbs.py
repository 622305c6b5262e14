"""Just enough English verb forms to turn a direct question into an indirect one."""

from __future__ import annotations

from relearn.text.common_words import word_set

_PAST = (
    "be:was become:became begin:began bring:brought build:built buy:bought choose:chose come:came cut:cut "
    "do:did draw:drew drive:drove eat:ate fall:fell feel:felt fight:fought find:found forget:forgot get:got "
    "give:gave go:went grow:grew have:had hear:heard hide:hid hold:held keep:kept know:knew lead:led "
    "learn:learned leave:left lend:lent lose:lost make:made mean:meant meet:met owe:owed pay:paid put:put "
    "quit:quit read:read ride:rode rise:rose run:ran say:said see:saw sell:sold send:sent set:set show:showed "
    "sing:sang sit:sat sleep:slept speak:spoke spend:spent stand:stood steal:stole swim:swam take:took "
    "teach:taught tell:told think:thought throw:threw understand:understood wear:wore win:won write:wrote"
)
_IRREGULAR_PAST = {verb: form for verb, form in (pair.split(":") for pair in _PAST.split())}

# Verbs that are looked for after a subject of several words.
BASE_VERBS = frozenset(_IRREGULAR_PAST) | word_set(
    "affect align appear approach attend belong change collaborate combine connect continue contribute convey "
    "define derive describe differ discover discuss earn employ encourage engage enjoy enrich exhibit explain "
    "explore express feature focus handle help identify impact include incorporate influence inform inspire "
    "integrate interact like live love matter mention need occur offer participate perceive play portray prefer "
    "promote publish pursue receive reflect relate reside resemble settle shape share specialize study suffer "
    "support transform treat typify use utilize venture visit work"
)

_IRREGULAR_PARTICIPLES = word_set(
    "been become begun brought built bought chosen come done drawn driven found felt given gone grown had heard "
    "held kept known led left lost made meant met paid put read said seen sent set shown spoken spent stood "
    "taken taught told thought understood won written"
)

ADJECTIVES_AFTER_BE = word_set(
    "able accessible active apparent available aware clear common considered dedicated different distinct "
    "evident famous fundamental good important influential known made open popular present prevalent ready "
    "reflective related seen similar special still successful told unique unusual usually used"
)

ADVERBS = word_set(
    "often also usually still always ever never first mostly now already even just typically not most best really"
)


def third_person(verb: str) -> str:
    """ "writes" for "write"."""
    special = {"be": "is", "have": "has", "do": "does", "go": "goes"}
    if verb in special:
        return special[verb]
    if verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def past(verb: str) -> str:
    """ "wrote" for "write", "settled" for "settle"."""
    if verb in _IRREGULAR_PAST:
        return _IRREGULAR_PAST[verb]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + "ed"


def is_participle(word: str) -> bool:
    return word in _IRREGULAR_PARTICIPLES or (word.endswith("ed") and len(word) > 4 and "-" not in word)


def is_adverb(word: str) -> bool:
    return word in ADVERBS or (word.endswith("ly") and len(word) > 4)
