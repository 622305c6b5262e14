"""The judges that metrics share: who names entities, who matches them, who decides entailment.

They outlive one measurement: entities and embeddings are kept by text, so what is the same before and after (every
question and every reference) is worked out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relearn.core import config
from relearn.core.errors import InputError, MissingPartError
from relearn.llm import Completer
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.entailment import load_entailment
from relearn.metrics.entity_prompt import PromptedEntities
from relearn.metrics.llm_judge import Aspect, Graded, NamedGrader, grade
from relearn.metrics.nli import EntailmentJudge
from relearn.models.builtin import builtin_path, is_builtin
from relearn.text.entities import Extractor, SpacyEntities, distinct
from relearn.text.matching import EmbeddingMatcher, ExactMatcher, Matcher

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


def make_judges(
    settings: config.Metrics, completer: Completer | None = None, cache: Path | None = None
) -> Judges:  # fmt: skip
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
