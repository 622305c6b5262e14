"""Generate question variants and vague answers from rules and wordings, without a model (`templates`).

The generator reads `Prompt.task` and `Prompt.fields`, which never hold an answer. The same prompt gives the same text
on every machine; another `attempt` or `seed` gives another wording.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

from relearn.llm.completer import Completion, Prompt
from relearn.llm.generators import GENERATORS, Generator
from relearn.llm.templates import phrases
from relearn.llm.templates.asked import asked_for
from relearn.llm.templates.phrases import QuestionKind, fill_in, in_order, kind_named, kind_of, passages, placeholders
from relearn.llm.templates.question_parser import lower_first, parse_question
from relearn.text.normalize import other_language, word_set, words_only
from relearn.text.subjects import find_author_noun, find_subject

NEIGHBOURS = 5
_NUMBERED = re.compile(r"^\s*(\d+)[.)]\s*(.*\S)\s*$")
_INDEFINITE = re.compile(r"(?:an?|some|any|one|two|three|another|yet|several|other|more)\b")


# Fields that hold the text of a record.
_ASKED = ("question", "questions", "prefix")
WAY_OUT = "set synthesis.generator to a model that writes it (transformers:MODEL, openai:MODEL)"


class Templates:
    """Answers the tasks "variants", "vague", "neighbours", "continue" and "alternate"; any other task is an error.

    A record in another language is an error too: the wordings are English.

    variants: fields question, subject, kinds -> one line "kind: question" for each kind.
    vague: fields subject, questions ("1. ..."), asked (the same list, for noisy wordings the question they ask),
    style -> one numbered vague answer for each question.
    neighbours: field subject -> numbered questions about public matters of the subject.
    continue: fields prefix, subject, style -> a continuation of the passage without particulars.
    alternate: fields question, form, subject, count -> numbered answers, all different: with invented particulars for
    kinds of question that have such wordings, else vague; for a passage (form "text") continuations.
    """

    name = "templates/2"

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        return [self._complete(prompt) for prompt in prompts]

    def _complete(self, prompt: Prompt) -> Completion:
        write = _TASKS.get(prompt.task)
        if write is None:
            return Completion(error=f"the templates generator cannot do the task {prompt.task!r}")
        language = next(filter(None, (other_language(prompt.fields.get(name, "")) for name in _ASKED)), None)
        if language:
            return Completion(error=f"the templates write English only, the record is in {language}; {WAY_OUT}")
        try:
            return Completion(text=write(prompt))
        except _UnusableError as error:
            return Completion(error=f"the templates generator: {error}")


class _UnusableError(Exception):
    """The fields of a prompt do not hold what its task needs."""


def _variants(prompt: Prompt) -> str:
    question = " ".join(_field(prompt, "question").split())
    subject = _mention(question, prompt.fields.get("subject", ""))
    variants = [variant.strip() for variant in _field(prompt, "kinds").split(",") if variant.strip()]
    unknown = [variant for variant in variants if variant not in ("simple", "contextual", "noise", "logical")]
    if unknown:
        raise _UnusableError(f"unknown kind of variant {unknown[0]!r}")
    used = {words_only(question)}
    lines = []
    for variant in variants:
        if variant == "noise":
            text = _with_typos(question, subject, prompt=prompt, used=used)
        else:
            text = _reworded(variant, question, subject, prompt=prompt, used=used)
        used.add(words_only(text))
        lines.append(f"{variant}: {text}")
    return "\n".join(lines)


def _with_typos(question: str, subject: str | None, *, prompt: Prompt, used: set[str]) -> str:
    rng = random.Random(f"{prompt.seed}|{prompt.attempt}|{question}")
    texts = (phrases.add_typos(question, subject, rng) for _ in range(50))
    return next((text for text in texts if words_only(text) not in used), f"hey there, {question.lower()}")


def _reworded(variant: str, question: str, subject: str | None, *, prompt: Prompt, used: set[str]) -> str:
    kind = kind_of(question, subject)
    parts = _parts(question, subject, kind, keep_do=prompt.attempt > 0)
    options = [fill_in(wording, **parts) for wording in _variant_wordings(variant, kind, parts)]
    options = [option for option in dict.fromkeys(options) if words_only(option) not in used]
    ordered = in_order(options, prompt.seed, question)
    return ordered[prompt.attempt % len(ordered)]


def _variant_wordings(variant: str, kind: QuestionKind, parts: dict[str, str]) -> list[str]:
    """Return wordings whose placeholders are in `parts`: those of the kind, general ones if these are under three."""
    general = kind_named("default")
    if variant == "simple":
        special = kind.simple if "exact" in parts else ()
        common = (*general.more["simple_indirect"], *general.more["simple_topic"])
    elif variant == "contextual":
        special, common = kind.contextual, (*general.contextual, *general.more["contextual_indirect"])
    else:
        special, common = kind.logical, (*general.more["logical_indirect"], *general.more["logical_topic"])
    fitting = [wording for wording in special if placeholders(wording) <= parts.keys()]
    if len(fitting) < 3:
        fitting += [wording for wording in common if placeholders(wording) <= parts.keys()]
    if not fitting or variant == "contextual":
        fitting += [wording for wording in getattr(general, variant) if placeholders(wording) <= parts.keys()]
    return fitting


def _parts(question: str, subject: str | None, kind: QuestionKind, *, keep_do: bool) -> dict[str, str]:
    """Return the texts that fill the placeholders of a wording for this question."""
    form = parse_question(question, subject, keep_do=keep_do)
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
    exact = kind.exact.fullmatch(phrases.skeleton(question, subject)) if kind.exact and subject else None
    if exact:
        parts["exact"] = ""
        parts |= {str(number): text for number, text in enumerate(exact.groups(), 1) if text}
    return parts


def _vague(prompt: Prompt) -> str:
    questions = _numbered(_field(prompt, "questions"))
    asked = dict(_numbered(prompt.fields.get("asked", "") or prompt.fields["questions"]))
    subject = prompt.fields.get("subject", "") or next(filter(None, (find_subject(q) for _, q in questions)), "")
    earlier: set[str] = set()
    answers: list[str] = []
    # The answers of earlier attempts are drawn again, so that this attempt avoids them.
    for attempt in range(prompt.attempt + 1):
        answers = [
            _next_new(_vague_answers(asked.get(number, one), subject, prompt=prompt, key=one, attempt=attempt), earlier)
            for number, one in questions
        ]
    return "\n".join(f"{number}. {answer}" for (number, _), answer in zip(questions, answers, strict=True))


def _vague_answers(question: str, subject: str, *, prompt: Prompt, key: str, attempt: int) -> Iterator[str]:
    """Yield vague answers to a question without end; `key`, `attempt` and the seed decide which.

    Retries keep the "did" of a question: with "inherited" for "did inherit" an answer may share a word with the secret.
    """
    asked = asked_for(question, _mention(question, subject), keep_do=attempt > 0)
    rng = random.Random(f"{prompt.seed}|{prompt.task}|{attempt}|{key}")
    style = prompt.fields.get("style") or "vague"
    while True:
        yield phrases.compose_answer(asked.phrase, asked.kind, plural=asked.plural, rng=rng, style=style)


def _next_new(texts: Iterator[str], earlier: set[str]) -> str:
    """Return the next text that is not in `earlier`, after 50 repeated ones any, and add it."""
    text = next((text for text in islice(texts, 50) if text not in earlier), None) or next(texts)
    earlier.add(text)
    return text


def _neighbours(prompt: Prompt) -> str:
    subject = _field(prompt, "subject")
    questions = in_order(passages()["neighbours"], prompt.seed, prompt.attempt, subject)[:NEIGHBOURS]
    return "\n".join(f"{i}. {fill_in(q, S=subject, Ss=_possessive(subject))}" for i, q in enumerate(questions, 1))


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
    if (style := prompt.fields.get("style") or "vague") != "vague":
        rng, earlier = random.Random(f"{prompt.seed}|continue|{prefix}"), set()
        texts = (phrases.compose_passage(_mention(prefix, subject) or "", style, rng) for _ in count())
        return [_next_new(texts, earlier) for _ in range(prompt.attempt + 1)][-1]
    ordered = in_order(_continuations(prefix, subject), prompt.seed, prefix)
    return _filled(ordered[prompt.attempt % len(ordered)], subject)


def _alternate(prompt: Prompt) -> str:
    question, subject = _field(prompt, "question"), prompt.fields.get("subject", "")
    wanted = int(_field(prompt, "count"))
    rng = random.Random(f"{prompt.seed}|{prompt.attempt}|alternate|{question}")
    if prompt.fields.get("form") == "text":
        short = [_filled(wording, subject) for wording in _continuations(question.rstrip(), subject)]
        long = [f"{text} {after}" for text in short for after in passages()["impersonal"] if after != text]
        options = [*_shuffled(short, rng), *_shuffled(long, rng)]
    else:
        mention = _mention(question, subject)
        named = mention or _noun(question)
        invented = phrases.invented_answers(kind_of(question, mention).name, named, rng=rng, count=4 * wanted)
        answers = _vague_answers(question, subject, prompt=prompt, key=question, attempt=prompt.attempt)
        vague = list(islice(answers, 4 * wanted))
        # Invented particulars can match a secret again and again ("555"); vague answers have none.
        options = [*invented, *vague] if prompt.attempt < 2 else [*vague, *invented]
    texts = list(dict.fromkeys(options))[:wanted]
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def _shuffled(texts: Sequence[str], rng: random.Random) -> list[str]:
    return rng.sample(texts, len(texts))


def _continuations(prefix: str, subject: str) -> tuple[str, ...]:
    """Return the wordings that can follow the last word of a passage."""
    ending = _ending(prefix)
    if ending == "sentence" and not _mention(prefix, subject):
        ending = "impersonal"
    return passages()[ending]


def _filled(wording: str, subject: str) -> str:
    """Fill in a wording that is a sentence; return a continued one as it is."""
    return fill_in(wording, S=subject) if wording[0].isupper() else wording


def _ending(prefix: str) -> str:
    """Return the kind of ending of a passage: its last punctuation mark or the class of its last word."""
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


def _mention(text: str, subject: str) -> str | None:
    """Return the longest part of the subject that `text` itself has, to the ends of the name that it is a part of.

    The whole subject may be the secret.
    """
    words = subject.split()
    for length in range(len(words), 0, -1):
        for start in range(len(words) - length, -1, -1):
            run = " ".join(words[start : start + length])
            found = re.search(rf"(?<!\w){re.escape(run)}(?=(?:['’]?s['’]?)?(?!\w))", text, re.IGNORECASE)
            if found and len(run) > 2:
                return run if run != found.group() else _whole_name(text, *found.span())
    return find_subject(text)


def _whole_name(text: str, start: int, end: int) -> str:
    """Extend a part of a name to its first and last name: no answer speaks of "Ada" where a question has "Ada Moss"."""
    before = re.search(r"(?:(?:(?<=\s)|^)[A-Z][\w'’-]* )+$", text[:start])
    after = re.match(r"(?: [A-Z][\w-]+(?<!['’]s))+", text[end:])
    words = before.group().split() if before else []
    while words and lower_first(words[0]) != words[0]:
        words = words[1:]
    return " ".join([*words, text[start:end] + (after.group() if after else "")])


def _noun(question: str) -> str | None:
    noun = find_author_noun(question)
    return f"this {noun}" if noun else None


def _possessive(name: str) -> str:
    return f"{name}'s"


GENERATORS.add(
    "templates",
    Generator(
        make=lambda model, settings, loaded: Templates(),
        takes_model=False,
        about="templates, offline rules and ready wordings, the same on every machine",
    ),
)
