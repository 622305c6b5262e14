"""The judges that metrics share: who names entities, who matches them, who decides entailment.

They outlive one measurement: entities and embeddings are kept by text, so what is the same before and after (every
question and every reference) is worked out once.

Entities named by a language model, as in the paper (arXiv 2502.11190, appendix C.5), behind any generator.

The answer must be one line parted by commas, or "None". Everything else is a failure: the item is then unscored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template

from relearn.core import config
from relearn.core.errors import InputError, MissingPartError
from relearn.llm import Completer, Prompt
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.entailment import load_entailment
from relearn.metrics.llm_judge import Aspect, Graded, NamedGrader, grade
from relearn.metrics.nli import EntailmentJudge
from relearn.models.builtin import builtin_path, is_builtin
from relearn.text.entities import EmbeddingMatcher, ExactMatcher, Extractor, Matcher, SpacyEntities, distinct, occurs_in

MAX_TOKENS = 256
_NONE = frozenset(("none", "n/a", "no entities"))
_LABEL = re.compile(r"^entities\s*:\s*", re.IGNORECASE)


class PromptedEntities:
    """Asks for every text once; a completer with a cache in front makes that once for all models and runs."""

    def __init__(self, completer: Completer):
        self.name = completer.name
        self._completer = completer

    def extract(self, texts: Sequence[str]) -> list[list[str] | None]:
        """None where the call failed or the answer could not be read. A text without words is not sent."""
        asked = [text for text in texts if any(map(str.isalnum, text))]
        completions = self._completer.complete([entity_prompt(text) for text in asked])
        given = {
            text: parse_entities(completion.text, text) if completion.ok else None
            for text, completion in zip(asked, completions, strict=True)
        }
        return [given.get(text, []) for text in texts]


def entity_prompt(text: str) -> Prompt:
    template = Template(resources.files("relearn.metrics").joinpath("prompts/entities.txt").read_text(encoding="utf-8"))
    return Prompt(template.substitute(text=text).rstrip(), "entities", {"text": text}, max_tokens=MAX_TOKENS)


def parse_entities(answer: str, text: str) -> list[str] | None:
    """The listed entities that `text` does contain; None for an answer that is not a list of any."""
    line = _LABEL.sub("", answer.strip()).rstrip(".")
    if line.lower() in _NONE:
        return []
    if not line or "\n" in line:
        return None
    entities = [entity.strip(" .\"'“”") for entity in line.split(",")]
    named = distinct(entity for entity in entities if entity.lower() not in _NONE)
    there = [entity for entity in named if _stands_in(entity, text)]
    return there or None


def _stands_in(entity: str, text: str) -> bool:
    """Its words stand in the text, in a row or, for a noun put into the singular, as the start of one."""
    return occurs_in(entity, text) or entity.casefold() in text.casefold()


SPACY_MODEL = "en_core_web_sm"
EXTRACTORS = ("spacy", "generator", "both")


@dataclass
class Judges:
    """`extractors`: their entities are united. `missing`: why coverage cannot be measured, None when it can.

    `unheard`: why the entailment judge that was asked for is not there. `grader`: the language model that grades
    answers from 1 to 5.
    """

    extractors: Sequence[Extractor] = ()
    matcher: Matcher | None = None
    entailment: EntailmentJudge | None = None
    missing: str | None = None
    unheard: str | None = None
    grader: Completer | None = None
    _known: dict[str, list[str]] = field(default_factory=dict, repr=False)
    _grades: dict[tuple[str, str, str, str], Graded] = field(default_factory=dict, repr=False)

    @property
    def described(self) -> str:
        names = " and ".join(extractor.name for extractor in self.extractors)
        return f"by {names}, matched by {self.matcher.name if self.matcher else 'nothing'}"

    def entities(self, texts: Sequence[str]) -> list[list[str] | None]:
        """The entities of every text; None where an extractor failed, which is tried again the next time."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        answers = [extractor.extract(new) for extractor in self.extractors] if new else []
        for text, *found in zip(new, *answers, strict=True):
            if all(entities is not None for entities in found):
                self._known[text] = distinct(entity for entities in found for entity in entities or ())
        return [self._known.get(text) for text in texts]

    def grades(self, rows: Sequence[AnswerRow], aspect: Aspect) -> list[Graded]:
        """The grader's grade of every row; one that failed is asked for again the next time. Needs a grader."""
        keys = [(aspect, row.question, row.reference, row.response) for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._grades}
        if new and self.grader is not None:
            found = dict(zip(new, grade(list(new.values()), aspect, self.grader), strict=True))
            self._grades.update({key: graded for key, graded in found.items() if graded.grade is not None})
        else:
            found = {}
        return [self._grades.get(key) or found[key] for key in keys]


def make_judges(settings: config.Metrics, completer: Completer | None = None, cache: Path | None = None) -> Judges:
    """The judges that `settings` name. `completer` answers for `entities: generator` and `both`; what a grading judge
    (`judge`) says is kept in the answer cache at `cache`.

    A built-in model that is not installed is not an error: coverage is then not measured, and every metric that rests
    on it says what to install. Raises InputError for a setting that cannot be.
    """
    if settings.entities not in EXTRACTORS:
        raise InputError(
            f"no entity extractor {settings.entities!r}",
            where="metrics.entities",
            way_out=f"one of {', '.join(EXTRACTORS)}",
        )
    entailment, unheard = _entailment(settings)
    grader = _grader(settings, cache)
    try:
        return Judges(_extractors(settings, completer), _matcher(settings), entailment, unheard=unheard, grader=grader)
    except MissingPartError as error:
        return Judges(entailment=entailment, missing=str(error), unheard=unheard, grader=grader)


def _grader(settings: config.Metrics, cache: Path | None) -> Completer | None:
    return NamedGrader(settings, cache) if settings.judge else None


def _entailment(settings: config.Metrics) -> tuple[EntailmentJudge | None, str | None]:
    if not settings.entailment:
        return None, None
    try:
        return load_entailment(settings.entailment, settings.entailment_revision), None
    except MissingPartError as error:
        return None, str(error)


def _extractors(settings: config.Metrics, completer: Completer | None) -> list[Extractor]:
    found: list[Extractor] = []
    if settings.entities in ("spacy", "both"):
        found.append(SpacyEntities(builtin_path(SPACY_MODEL), f"spaCy {SPACY_MODEL}"))
    if settings.entities in ("generator", "both"):
        if completer is None:
            raise InputError(
                f"{settings.entities!r} asks a generator for entities, and there is none",
                where="metrics.entities",
                way_out="set synthesis.generator to a language model, or entities: spacy",
            )
        found.append(PromptedEntities(completer))
    return found


def _matcher(settings: config.Metrics) -> Matcher:
    if settings.matcher == "exact":
        return ExactMatcher()
    name = settings.matcher
    return EmbeddingMatcher(str(builtin_path(name)) if is_builtin(name) else name, settings.match_threshold, label=name)
