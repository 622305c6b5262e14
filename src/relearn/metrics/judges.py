"""Make the judges that metrics share: entity extractors, the entity matcher, the entailment judge, the grading model.

`Judges` caches entities and grades by text, so that texts that are the same before and after unlearning (questions and
references) are processed once.

`PromptedEntities` extracts entities with a language model, as in arXiv 2502.11190, appendix C.5. The reply must be one
line separated by commas, or "None"; any other reply is a failure, and the item is unscored.
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
    """Extract entities with a language model; a cached completer is called once per text over all runs."""

    def __init__(self, completer: Completer):
        self.name = completer.name
        self._completer = completer

    def extract(self, texts: Sequence[str]) -> list[list[str] | None]:
        """Extract the entities of each text; None if the call failed or the reply could not be parsed.

        A text without words is not sent.
        """
        sent = [text for text in texts if any(map(str.isalnum, text))]
        completions = self._completer.complete([entity_prompt(text) for text in sent])
        entities = {
            text: parse_entities(completion.text, text) if completion.ok else None
            for text, completion in zip(sent, completions, strict=True)
        }
        return [entities.get(text, []) for text in texts]


def entity_prompt(text: str) -> Prompt:
    template = Template(resources.files("relearn.metrics").joinpath("prompts/entities.txt").read_text(encoding="utf-8"))
    return Prompt(template.substitute(text=text).rstrip(), "entities", {"text": text}, max_tokens=MAX_TOKENS)


def parse_entities(answer: str, text: str) -> list[str] | None:
    """Parse a reply into the entities that are in `text`; None if it is not a list or has no such entity."""
    line = _LABEL.sub("", answer.strip()).rstrip(".")
    if line.lower() in _NONE:
        return []
    if not line or "\n" in line:
        return None
    entities = [entity.strip(" .\"'“”") for entity in line.split(",")]
    named = distinct(entity for entity in entities if entity.lower() not in _NONE)
    contained = [entity for entity in named if _is_in(entity, text)]
    return contained or None


def _is_in(entity: str, text: str) -> bool:
    """Return True if the text has the entity's words in sequence, or a longer word with the entity (a plural)."""
    return occurs_in(entity, text) or entity.casefold() in text.casefold()


SPACY_MODEL = "en_core_web_sm"
EXTRACTORS = ("spacy", "generator", "both")


@dataclass
class Judges:
    """Hold the judges of a measurement, and cache entities and grades.

    extractors: the union of their entities is used. grader: the language model that grades answers from 1 to 5.
    missing: the reason why entity coverage cannot be measured, or None. entailment_missing: the reason why the
    entailment judge of the settings could not be loaded, or None.
    """

    extractors: Sequence[Extractor] = ()
    matcher: Matcher | None = None
    entailment: EntailmentJudge | None = None
    missing: str | None = None
    entailment_missing: str | None = None
    grader: Completer | None = None
    _entities: dict[str, list[str]] = field(default_factory=dict, repr=False)
    _grades: dict[tuple[str, str, str, str], Graded] = field(default_factory=dict, repr=False)

    @property
    def described(self) -> str:
        names = " and ".join(extractor.name for extractor in self.extractors)
        return f"by {names}, matched by {self.matcher.name if self.matcher else 'nothing'}"

    def entities(self, texts: Sequence[str]) -> list[list[str] | None]:
        """Extract the entities of every text; None if an extractor failed (the next call tries again)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._entities]
        answers = [extractor.extract(new) for extractor in self.extractors] if new else []
        for text, *by_extractor in zip(new, *answers, strict=True):
            if all(entities is not None for entities in by_extractor):
                self._entities[text] = distinct(entity for entities in by_extractor for entity in entities or ())
        return [self._entities.get(text) for text in texts]

    def grades(self, rows: Sequence[AnswerRow], aspect: Aspect) -> list[Graded]:
        """Grade every row in one aspect; the next call tries failed grades again. Needs a grader."""
        keys = [(aspect, row.question, row.reference, row.response) for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._grades}
        grades: dict[tuple[str, str, str, str], Graded] = {}
        if new and self.grader is not None:
            grades = dict(zip(new, grade(list(new.values()), aspect, self.grader), strict=True))
            self._grades.update({key: graded for key, graded in grades.items() if graded.grade is not None})
        return [self._grades.get(key) or grades[key] for key in keys]


def make_judges(settings: config.Metrics, completer: Completer | None = None, cache: Path | None = None) -> Judges:
    """Make the judges of the metrics settings.

    completer: extracts entities for `entities: generator` and `both`. cache: the cache for replies of a grading judge
    (`judge`). If a built-in model is not installed, metrics that need it are unscored, with the package to install in
    their note. Raises InputError for an invalid setting.
    """
    if settings.entities not in EXTRACTORS:
        raise InputError(
            f"no entity extractor {settings.entities!r}",
            where="metrics.entities",
            way_out=f"one of {', '.join(EXTRACTORS)}",
        )
    judges = Judges(grader=NamedGrader(settings, cache) if settings.judge else None)
    if settings.entailment:
        try:
            judges.entailment = load_entailment(settings.entailment, settings.entailment_revision)
        except MissingPartError as error:
            judges.entailment_missing = str(error)
    try:
        judges.extractors, judges.matcher = _extractors(settings, completer), _matcher(settings)
    except MissingPartError as error:
        judges.missing = str(error)
    return judges


def _extractors(settings: config.Metrics, completer: Completer | None) -> list[Extractor]:
    extractors: list[Extractor] = []
    if settings.entities in ("spacy", "both"):
        extractors.append(SpacyEntities(builtin_path(SPACY_MODEL), f"spaCy {SPACY_MODEL}"))
    if settings.entities in ("generator", "both"):
        if completer is None:
            raise InputError(
                f"{settings.entities!r} asks a generator for entities, and there is none",
                where="metrics.entities",
                way_out="set synthesis.generator to a language model, or entities: spacy",
            )
        extractors.append(PromptedEntities(completer))
    return extractors


def _matcher(settings: config.Metrics) -> Matcher:
    if settings.matcher == "exact":
        return ExactMatcher()
    name = settings.matcher
    return EmbeddingMatcher(str(builtin_path(name)) if is_builtin(name) else name, settings.match_threshold, label=name)
