"""What an audit is and where it is registered.

A new audit is one new file in this folder that calls `AUDITS.add(name, Audit(...))`. It does one of three things:

    asks      other questions about the same facts, put to every model (jailbreaks, completions, paraphrases, ...)
    changes   another model, to which the plain questions are put again (4-bit weights, relearning, ...)

    reads     what the model holds inside: probabilities and states, numbers instead of answers (top-k, probes, ...);
              shown beside the verdicts, they decide none

What the first two bring is looked through for the facts in one place (`stating.py`) and turned into verdicts in another
(`verdicts.py`); an audit decides neither.

What attacks are made of: the facts that were to be forgotten, what was to be kept, and ways to word a question.

What attacks that look inside a model make numbers with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from relearn.core.config import Lora, Metrics, Recipe
from relearn.core.registry import Registry
from relearn.data import Form, Record
from relearn.metrics.intervals import mean_interval
from relearn.metrics.judges import Judges
from relearn.metrics.metric import Measurement

if TYPE_CHECKING:
    from relearn.metrics.metric import Measurement
    from relearn.models.load import Loaded

Family = Literal["questions", "precision", "relearning", "adapters", "access"]
Need = Literal["kept", "subjects"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """One question about the fact of record `id`.

    `prompt` is what the user says, or with form "text" nothing; `given` is the beginning of the answer, put into the
    model's mouth. What the model repeats from `prompt` and `given` is not told by it. `wanted`: texts that tell the
    fact where they stand in the answer, beside the secrets that the leak check knows. `sample` numbers draws at
    temperature 1; without it the answer is greedy.
    """

    id: str
    prompt: str
    variant: str
    form: Form = "chat"
    given: str = ""
    wanted: tuple[str, ...] = ()
    sample: int | None = None

    @property
    def key(self) -> str:
        """Names the question among those of its attack."""
        return f"{self.id}/{self.variant}/{self.sample or 0}"


# Called with the name of a variant, the changed model, and the records that the change itself has shown to the model.
AskAgain = Callable[..., None]


@dataclass(frozen=True)
class Audit:
    """`counts`: whether what the attack brings out decides a verdict; the others are shown beside it.

    `asks(material)` returns the questions. `changes(fresh, material, ask)` gets a function that loads the model anew
    and calls `ask(variant, loaded, shown=ids)` for each changed model; `shown` are records that the change has told it.
    `reads(loaded, material)` returns rows {id, measure, value}, a value per fact (None: could not be read); where an
    attack keeps rows of another kind, `gather(rows, gathering)` makes numbers of them. `shown` names the measure that
    stands in the tables. `needs`: what must be given beside the facts, or the attack is not measured.
    """

    name: str
    title: str
    family: Family
    source: str
    about: str
    counts: bool = True
    asks: Callable[[Material], Sequence[Ask]] | None = None
    changes: Callable[[Callable[[], Loaded], Material, AskAgain], None] | None = None
    reads: Callable[[Loaded, Material], Sequence[Row]] | None = None
    gather: Callable[[Sequence[Row], Gathering], Mapping[str, Measurement]] | None = None
    shown: str = ""
    needs: Sequence[Need] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


AUDITS: Registry[Audit] = Registry("audit", "relearn.audits.attacks")


def each(
    material: Material, variant: str, build: Callable[[Record], tuple[str, str] | str | None], **more: Any
) -> list[Ask]:
    """One question per fact. `build` returns the prompt, or it and the beginning of the answer, or None for none."""
    asks = []
    for record in material.facts:
        made = build(record)
        if made is None:
            continue
        prompt, given = (made, "") if isinstance(made, str) else made
        asks.append(Ask(record.id, prompt, variant, given=given, **more))
    return asks


@dataclass(frozen=True)
class Material:
    """`facts` were to be forgotten; `kept` were not; `generic` belongs to neither.

    `wordings`: record id -> other wordings of its question. `templates`: name -> jailbreak text with PROMPT in it.
    `holdout`: like the facts, but no model was trained on them.
    """

    facts: Sequence[Record]
    kept: Sequence[Record]
    generic: Sequence[Record]
    wordings: Mapping[str, Sequence[str]]
    recipe: Recipe
    folder: Path
    templates: Mapping[str, str] = field(default_factory=dict)
    samples: int = 8
    seed: int = 0
    holdout: Sequence[Record] = ()

    @property
    def lora(self) -> Lora:
        return self.recipe.unlearn.lora

    def about_the_same(self, record: Record) -> list[Record]:
        """Kept records on the subject of `record`."""
        return [other for other in self.kept if record.subject and other.subject == record.subject]


@dataclass(frozen=True)
class Gathering:
    """What numbers are made with: the facts, settings of metrics (bootstrap, min_k), judges, the seed."""

    facts: Sequence[Record]
    settings: Metrics
    judges: Judges
    seed: int

    def mean(self, values: Mapping[str, float | None], note: str = "") -> Measurement:
        """The mean over facts with a bootstrap interval over subjects; facts without a value are unscored."""
        subjects = {record.id: record.subject for record in self.facts}
        known = {key: value for key, value in values.items() if value is not None}
        unscored = len(values) - len(known)
        if not known:
            return Measurement(None, unscored=unscored, per_record=values, why="could not be read", note=note)
        value, low, high = mean_interval(
            list(known.values()),
            clusters=[subjects.get(key) for key in known],
            resamples=self.settings.bootstrap,
            seed=self.seed,
        )
        why = "could not be read" if unscored else ""
        counts: dict[str, Any] = {"n": len(known), "unscored": unscored, "per_record": values}
        return Measurement(value, low=low, high=high, **counts, note=note, why=why)
