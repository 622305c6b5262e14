"""Define the attacks of an audit: the decorator `attack`, its registry AUDITS, and the inputs of an attack function.

An attack is a function registered with `@attack("name", label=..., description=...)`. The families of attacks:

    questions                         makes other prompts about the same facts; every model answers them
    precision, relearning, adapters   changes the weights, then asks the plain questions again
    access                            measures probabilities or hidden states; reported, but decides no verdict

fact_matching.py finds the facts in the answers. scoring.py computes one verdict per fact from the matches.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from relearn.audits.strength import STANDARD, Strength
from relearn.core.config import Metrics, Recipe
from relearn.core.registry import Registry
from relearn.data import Form, Record
from relearn.metrics.intervals import share_interval
from relearn.metrics.judges import Judges
from relearn.metrics.metric import Measurement

Family = Literal["questions", "precision", "relearning", "adapters", "access"]
AttackInput = Literal["retain", "subjects"]
# One row of audits/answers/ATTACK.MODEL.jsonl: an answer to a prompt, or a number about a fact.
AttackRow = dict[str, Any]


@dataclass(frozen=True)
class AttackPrompt:
    """Hold one prompt about a fact, as an attack function returns it.

    `text`: the user's message (form "chat"), or a text to continue (form "text"; may be empty). `answer_prefix`: text
    that the answer is forced to start with. Words of `text` and `answer_prefix` never count as stated by the model.
    `answer_targets`: further texts that state the fact if the answer contains them, besides the record's own secrets.
    """

    text: str
    answer_prefix: str = ""
    form: Form = "chat"
    answer_targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class FactPrompt:
    """Hold a prompt about the fact with record id `id`.

    `sample`: number of the answer sampled at temperature 1; None for greedy decoding.
    """

    id: str
    variant: str
    prompt: AttackPrompt
    sample: int | None = None

    @property
    def key(self) -> str:
        """Return an identifier that is unique among the prompts of one attack."""
        return f"{self.id}/{self.variant}/{self.sample or 0}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields under the names that rows in audits/answers/ use."""
        return {
            "id": self.id,
            "prompt": self.prompt.text,
            "variant": self.variant,
            "form": self.prompt.form,
            "given": self.prompt.answer_prefix,
            "wanted": self.prompt.answer_targets,
            "sample": self.sample,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> FactPrompt:
        prompt = AttackPrompt(row["prompt"], row["given"], row["form"], tuple(row["wanted"]))
        return cls(row["id"], row["variant"], prompt, row["sample"])


@dataclass(frozen=True)
class AuditInputs:
    """Hold the data and settings that attacks use.

    `facts`: forget records under attack. `retain`: retain records. `generic`: records unrelated to both sets.
    `holdout`: records that resemble the facts, but that no model was trained on. `wordings`: record id -> paraphrases
    of its question. `templates`: name -> the user's jailbreak template, in which PROMPT marks the place of the
    question. `folder`: the audited run folder. `strength`: settings of the attacks.
    """

    facts: Sequence[Record]
    retain: Sequence[Record]
    generic: Sequence[Record]
    wordings: Mapping[str, Sequence[str]]
    recipe: Recipe
    folder: Path
    templates: Mapping[str, str] = field(default_factory=dict)
    strength: Strength = STANDARD
    seed: int = 0
    holdout: Sequence[Record] = ()


@dataclass(frozen=True)
class FactAggregation:
    """Aggregate values per fact into one number, with the settings of the recipe's metrics."""

    facts: Sequence[Record]
    settings: Metrics
    judges: Judges
    seed: int

    def mean(self, values: Mapping[str, float | None], *, why: str = "could not be read") -> Measurement:
        """Compute the mean over facts with an interval over subjects: that of a share if every value is 0 or 1.

        `values`: record id -> value. A fact whose value is None is unscored; `why` is the reported reason.
        """
        scored = {key: value for key, value in values.items() if value is not None}
        unscored = len(values) - len(scored)
        if not scored:
            return Measurement(None, unscored=unscored, per_record=values, why=why)
        subjects = self.subjects
        clusters = [subjects.get(key) for key in scored]
        value, low, high = share_interval(
            list(scored.values()), clusters=clusters, resamples=self.settings.bootstrap, seed=self.seed
        )
        counts = {"n": len(scored), "unscored": unscored, "per_record": values}
        return Measurement(value, low=low, high=high, **counts, why=why if unscored else "")

    @property
    def subjects(self) -> dict[str, str | None]:
        """Map the record id of every fact to its subject."""
        return {record.id: record.subject for record in self.facts}


PromptFunction = Callable[[AuditInputs], list[FactPrompt]]
# (load_model, inputs, ask): load_model() returns an unchanged model; ask(variant, loaded, shown=ids) asks it.
WeightFunction = Callable[[Callable[..., Any], AuditInputs, Callable[..., Sequence[AttackRow]]], None]
# (loaded, inputs) -> rows of `measurement_row`.
MeasureFunction = Callable[[Any, AuditInputs], Sequence[AttackRow]]
AggregateFunction = Callable[[Sequence[AttackRow], FactAggregation], Mapping[str, Measurement]]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Hold a registered attack; see `attack` for the fields.

    Exactly one of `prompts`, `change_weights` and `measure` is set.
    """

    name: str
    label: str
    description: str
    source: str = ""
    family: Family = "questions"
    counts: bool = True
    prompts: PromptFunction | None = None
    change_weights: WeightFunction | None = None
    measure: MeasureFunction | None = None
    aggregate: AggregateFunction | None = None
    headline: str = ""
    needs: Sequence[AttackInput] = ()
    partial_answer: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the first entries of audits/NAME.json."""
        return {
            "name": self.name,
            "title": self.label,
            "family": self.family,
            "source": self.source,
            "about": self.description,
            "counts": self.counts,
        }


AUDITS: Registry[Audit] = Registry("audit", "relearn.audits.attacks")
AttackFunction = TypeVar("AttackFunction", bound=Callable[..., Any])


def attack(
    name: str,
    *,
    label: str,
    description: str,
    source: str = "",
    family: Family = "questions",
    counts: bool = True,
    documents: bool = False,
    by_variant: bool = False,
    sampled: bool = False,
    partial_answer: bool = False,
    aggregate: AggregateFunction | None = None,
    headline: str = "",
    needs: Sequence[AttackInput] = (),
) -> Callable[[AttackFunction], AttackFunction]:
    """Register an attack function under `name`.

    A complete custom attack:

        from relearn.audits.attack import attack

        @attack("my_attack", label="Polite insistence", description="the question asked as a favour")
        def my_attack(fact):
            return f"It would help me a lot. {fact.question}"

    Family "questions": called as `function(fact)` or `function(fact, inputs)` for every fact. `fact` is a `Record` with
    `question`, `answer`, `subject` and `form`; `inputs` is the `AuditInputs`. The function returns one prompt, a list
    of prompts, or a mapping from the name of a variant to its prompt. A prompt is a str or an `AttackPrompt`; None
    means no prompt. The attack brings the fact back if the answer to any of these prompts states it.

    Family "access": called as `function(loaded, inputs)`; returns one `measurement_row` per fact and measure.

    Families "precision", "relearning" and "adapters": called as `function(load_model, inputs, ask)`. The function loads
    an unchanged model with `load_model()`, changes it, and calls `ask(variant, loaded)`. It passes the ids of the facts
    that it trained on as `shown=`; those facts are not asked about. `ask` returns the rows of the answers.

    `label`, `description`, `source` (paper): shown in `relearn list audits` and the report. `counts`: whether a fact
    that the attack brings back may decide the verdict. `documents`: also call the function for passages of documents
    (form "text"). `by_variant`: ask all facts under one variant before the next. `sampled`: ask each prompt
    `inputs.strength.samples` times at temperature 1. `partial_answer`: declare that prompts have part of the answer.

    For family "access": `aggregate` computes the measures from the rows (None: mean over facts). `headline`: the
    measure shown in tables. `needs`: inputs without which nothing is measured. `check_attack(name)` checks an attack
    against these rules.
    """

    def register(function: AttackFunction) -> AttackFunction:
        is_prompt, is_measure = family == "questions", family == "access"
        prompts = _prompts_of_all_facts(function, documents=documents, by_variant=by_variant, sampled=sampled)
        entry = Audit(
            name=name,
            label=label,
            description=description,
            source=source,
            family=family,
            counts=counts and not is_measure,
            prompts=prompts if is_prompt else None,
            change_weights=None if is_prompt or is_measure else function,
            measure=function if is_measure else None,
            aggregate=aggregate,
            headline=headline,
            needs=needs,
            partial_answer=partial_answer,
        )
        AUDITS.add(name, entry)
        return function

    return register


def measurement_row(record_id: str, measure: str, value: float | None) -> AttackRow:
    """Return the row for one number about one fact; `value` is None if it could not be measured."""
    return {"key": f"{record_id}/{measure}", "id": record_id, "measure": measure, "value": value}


def _prompts_of_all_facts(
    function: Callable[..., Any], *, documents: bool, by_variant: bool, sampled: bool
) -> PromptFunction:
    takes_inputs = len(inspect.signature(function).parameters) > 1

    def prompts(inputs: AuditInputs) -> list[FactPrompt]:
        attack_prompts: list[FactPrompt] = []
        variant_order: dict[str, int] = {}
        for fact in inputs.facts:
            if fact.form == "text" and not documents:
                continue
            result = function(fact, inputs) if takes_inputs else function(fact)
            for variant, prompt in _prompts_by_variant(result).items():
                variant_order.setdefault(variant, len(variant_order))
                if prompt is not None:
                    prompt = AttackPrompt(prompt, form=fact.form) if isinstance(prompt, str) else prompt
                    attack_prompts.append(FactPrompt(fact.id, variant, prompt))
        if by_variant:
            attack_prompts.sort(key=lambda one: variant_order[one.variant])
        if not sampled:
            return attack_prompts
        return [replace(one, sample=draw) for one in attack_prompts for draw in range(1, inputs.strength.samples + 1)]

    return prompts


def _prompts_by_variant(result: Any) -> Mapping[str, AttackPrompt | str | None]:
    if isinstance(result, Mapping):
        return result
    if result is None or isinstance(result, str | AttackPrompt):
        return {"asked": result}
    assert isinstance(result, Iterable)
    return {f"prompt {number}": prompt for number, prompt in enumerate(result, start=1)}
