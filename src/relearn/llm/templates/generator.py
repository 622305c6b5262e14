"""The offline generator: question variants and vague answers from rules and ready wordings, without a model.

It reads `Prompt.task` and `Prompt.fields`, never an answer (the fields hold none), and gives the same text for the same
prompt on every machine. Another `attempt` or `seed` brings another wording.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from relearn.llm.completer import Completion, Prompt
from relearn.llm.generators import GENERATORS, Generator
from relearn.llm.templates.phrases import (
    Kind,
    fill,
    in_order,
    invented_answers,
    kind_named,
    kind_of,
    needs,
    noisy,
    passages,
    skeleton,
)
from relearn.llm.templates.question_parser import parse
from relearn.text.normalize import word_set
from relearn.text.subjects import find_author_noun, find_subject

NEIGHBOURS = 5
_NUMBERED = re.compile(r"^\s*(\d+)[.)]\s*(.*\S)\s*$")
_INDEFINITE = re.compile(r"(?:an?|some|any|one|two|three|another|yet|several|other|more)\b")
_INFLUENCE = re.compile(
    r"\b(?:influenc|impact|affect|shap|inspir|contribut|reflect|appear|enrich|inform)(?:e|es|ed|s)?\b"
)
_PERSONAL = re.compile(r"\b(?:who|whom|whose|he|she|his|her|him|their|they)\b", re.IGNORECASE)


class Templates:
    """Answers the tasks "variants", "vague", "neighbours", "continue" and "alternate"; any other task is an error.

    variants: fields question, subject, kinds -> one line "kind: question" for each kind.
    vague: fields subject, questions ("1. ...") -> one numbered vague answer for each question.
    neighbours: field subject -> numbered questions about the public side of the subject.
    continue: fields prefix, subject -> a continuation of the passage that says nothing in particular.
    alternate: fields question, form, subject, count -> numbered answers, all different: with invented particulars for
    kinds of question that have such wordings, else vague; for a passage (form "text") ways to go on.
    """

    name = "templates/1"

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        return [self._one(prompt) for prompt in prompts]

    def _one(self, prompt: Prompt) -> Completion:
        write = _TASKS.get(prompt.task)
        if write is None:
            return Completion(error=f"the templates generator cannot do the task {prompt.task!r}")
        try:
            return Completion(text=write(prompt))
        except _UnusableError as error:
            return Completion(error=f"the templates generator: {error}")


class _UnusableError(Exception):
    """The fields of a prompt do not hold what its task needs."""


def _variants(prompt: Prompt) -> str:
    question = " ".join(_field(prompt, "question").split())
    subject = _mention(question, prompt.fields.get("subject", ""))
    wanted = [kind.strip() for kind in _field(prompt, "kinds").split(",") if kind.strip()]
    unknown = [kind for kind in wanted if kind not in ("simple", "contextual", "noise", "logical")]
    if unknown:
        raise _UnusableError(f"unknown kind of variant {unknown[0]!r}")
    taken = {_plain(question)}
    lines = []
    for kind in wanted:
        variant = _variant(kind, question, subject, prompt, taken)
        taken.add(_plain(variant))
        lines.append(f"{kind}: {variant}")
    return "\n".join(lines)


def _variant(kind: str, question: str, subject: str | None, prompt: Prompt, taken: set[str]) -> str:
    if kind == "noise":
        rng = random.Random(f"{prompt.seed}|{prompt.attempt}|{question}")
        tries = (noisy(question, subject, rng) for _ in range(50))
        return next((text for text in tries if _plain(text) not in taken), f"hey there, {question.lower()}")
    asked = kind_of(question, subject)
    parts = _parts(question, subject, asked)
    options = [fill(wording, **parts) for wording in _variant_wordings(kind, asked, parts)]
    options = [option for option in dict.fromkeys(options) if _plain(option) not in taken]
    ordered = in_order(options, prompt.seed, question)
    return ordered[prompt.attempt % len(ordered)]


def _variant_wordings(kind: str, asked: Kind, parts: dict[str, str]) -> list[str]:
    """Wordings that fit: those of the kind asked for first, general ones where these are fewer than three."""
    general = kind_named("default")
    if kind == "simple":
        special = asked.simple if "exact" in parts else ()
        common = (*general.more["simple_indirect"], *general.more["simple_topic"])
    elif kind == "contextual":
        special, common = asked.contextual, (*general.contextual, *general.more["contextual_indirect"])
    else:
        special, common = asked.logical, (*general.more["logical_indirect"], *general.more["logical_topic"])
    fitting = [wording for wording in special if needs(wording) <= parts.keys()]
    if len(fitting) < 3:
        fitting += [wording for wording in common if needs(wording) <= parts.keys()]
    if not fitting or kind == "contextual":
        fitting += [wording for wording in getattr(general, kind) if needs(wording) <= parts.keys()]
    return fitting


def _parts(question: str, subject: str | None, asked: Kind) -> dict[str, str]:
    """What a wording may ask for about this question, by the names in its braces."""
    form = parse(question, subject)
    parts = {"q": form.direct, "mark": form.mark}
    named = subject or _noun(question)
    if named:
        parts |= {"S": named, "Ss": _possessive(named)}
    if form.indirect:
        parts["i"] = form.indirect
    if form.topic:
        parts["t"] = form.topic
        if not _INDEFINITE.match(form.topic):
            parts["d"] = form.topic
    exact = asked.exact.fullmatch(skeleton(question, subject)) if asked.exact and subject else None
    if exact:
        parts["exact"] = ""
        parts |= {str(number): text for number, text in enumerate(exact.groups(), 1) if text}
    return parts


def _vague(prompt: Prompt) -> str:
    questions = _numbered(_field(prompt, "questions"))
    subject = prompt.fields.get("subject", "") or next(filter(None, (find_subject(q) for _, q in questions)), "")
    chosen: list[list[str]] = [[] for _ in questions]
    picked: list[str] = []
    for _ in range(prompt.attempt + 1):
        picked = []
        for earlier, (_, question) in zip(chosen, questions, strict=True):
            options = in_order(_answers(question, subject), prompt.seed, question)
            fresh = [option for option in options if option not in earlier] or options
            answer = next((option for option in fresh if option not in picked), fresh[0])
            picked.append(answer)
            earlier.append(answer)
    return "\n".join(f"{number}. {answer}" for (number, _), answer in zip(questions, picked, strict=True))


def _answers(question: str, given: str) -> list[str]:
    """All vague answers that suit `question`, filled in."""
    subject = _mention(question, given)
    kind = kind_of(question, subject)
    named = subject or _noun(question)
    if named is None and not _PERSONAL.search(question):
        return list(kind_named("impersonal").answers)
    name = named or "the person in question"
    answers = [fill(wording, S=name, Ss=_possessive(name)) for wording in kind.answers]
    statement = parse(question, subject).statement if question[:1].isupper() else None
    if statement and subject and _says_nothing_new(statement, subject):
        clauses = kind_named("how").more["clause_influence" if _INFLUENCE.search(statement) else "clause"]
        answers += [fill(clause, St=statement) for clause in in_order(clauses, question)[:2]]
    return answers


def _says_nothing_new(statement: str, subject: str) -> bool:
    """Whether a statement from the question can stand in an answer: on the subject, without figures or other names."""
    rest = re.sub(re.escape(subject), "", statement, flags=re.IGNORECASE)
    return (
        rest != statement and rest == rest.lower() and not re.search(r"[\d@\"“]", rest) and len(statement.split()) <= 16
    )


def _neighbours(prompt: Prompt) -> str:
    subject = _field(prompt, "subject")
    questions = in_order(passages()["neighbours"], prompt.seed, prompt.attempt, subject)[:NEIGHBOURS]
    return "\n".join(f"{i}. {fill(q, S=subject, Ss=_possessive(subject))}" for i, q in enumerate(questions, 1))


_LAST_WORDS = {
    "is": word_set("is are was were be been being"),
    "has": word_set("has have had"),
    "preposition": word_set(
        "in at on near from to with by for of about under over between into through during after before as"
    ),
    "determiner": word_set("the a an this that his her its their my our your some any"),
    "conjunction": word_set("and or"),
    "clause": word_set("because when while where if although but since so"),
    "relative": word_set("who which"),
}


def _continue(prompt: Prompt) -> str:
    prefix = _field(prompt, "prefix").rstrip()
    subject = prompt.fields.get("subject", "")
    ordered = in_order(_ways_on(prefix, subject), prompt.seed, prefix)
    return _way_on(ordered[prompt.attempt % len(ordered)], subject)


def _alternate(prompt: Prompt) -> str:
    question, subject = _field(prompt, "question"), prompt.fields.get("subject", "")
    count = int(_field(prompt, "count"))
    rng = random.Random(f"{prompt.seed}|{prompt.attempt}|alternate|{question}")
    if prompt.fields.get("form") == "text":
        ways = [_way_on(wording, subject) for wording in _ways_on(question.rstrip(), subject)]
        more = [f"{text} {after}" for text in ways for after in passages()["impersonal"] if after != text]
        options = [*_shuffled(ways, rng), *_shuffled(more, rng)]
    else:
        mention = _mention(question, subject)
        named = mention or _noun(question)
        invented = invented_answers(kind_of(question, mention).name, named, rng, 4 * count)
        vague = _shuffled(_answers(question, subject), rng)
        # What is invented can hit a secret again and again ("555"); what is vague tells nothing.
        options = [*invented, *vague] if prompt.attempt < 2 else [*vague, *invented]
    texts = list(dict.fromkeys(options))[:count]
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def _shuffled(texts: Sequence[str], rng: random.Random) -> list[str]:
    return rng.sample(texts, len(texts))


def _ways_on(prefix: str, subject: str) -> tuple[str, ...]:
    """The wordings with which a passage can go on after its last word."""
    where = _passage_kind(prefix)
    if where == "sentence" and not _mention(prefix, subject):
        where = "impersonal"
    return passages()[where]


def _way_on(wording: str, subject: str) -> str:
    """Filled in, where it is a sentence of its own."""
    return fill(wording, S=subject) if wording[0].isupper() else wording


def _passage_kind(prefix: str) -> str:
    if prefix.endswith((".", "!", "?", ":", '"', "”")):
        return "sentence"
    if prefix.endswith((",", ";")):
        return "comma"
    last = prefix.split()[-1].lower()
    if re.search(r"['’]s?$", last):
        return "determiner"
    return next((kind for kind, words in _LAST_WORDS.items() if last in words), "other")


_TASKS: dict[str, Callable[[Prompt], str]] = {
    "variants": _variants,
    "vague": _vague,
    "neighbours": _neighbours,
    "continue": _continue,
    "alternate": _alternate,
}


def _field(prompt: Prompt, name: str) -> str:
    value = prompt.fields.get(name, "").strip()
    if not value:
        raise _UnusableError(f"the task {prompt.task!r} needs the field {name!r}")
    return value


def _numbered(text: str) -> list[tuple[str, str]]:
    rows = [match.groups() for match in map(_NUMBERED.match, text.split("\n")) if match]
    if not rows:
        raise _UnusableError("no numbered question in the field 'questions'")
    return [(number, question) for number, question in rows]


def _mention(text: str, given: str) -> str | None:
    """The subject as far as `text` itself names it: a record's subject may be the very thing to be forgotten."""
    words = given.split()
    for length in range(len(words), 0, -1):
        for start in range(len(words) - length, -1, -1):
            run = " ".join(words[start : start + length])
            if len(run) > 2 and re.search(rf"(?<!\w){re.escape(run)}(?:['’]?s['’]?)?(?!\w)", text, re.IGNORECASE):
                return run
    return find_subject(text)


def _noun(question: str) -> str | None:
    noun = find_author_noun(question)
    return f"this {noun}" if noun else None


def _possessive(name: str) -> str:
    return f"{name}'s"


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text).strip().casefold()


GENERATORS.add(
    "templates",
    Generator(
        make=lambda model, settings, loaded: Templates(),
        takes_model=False,
        about="templates, offline rules and ready wordings, the same on every machine",
    ),
)
