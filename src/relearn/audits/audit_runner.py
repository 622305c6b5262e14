"""Run attacks on the models of a run and write the folder audits/.

audits/answers/ATTACK.MODEL.jsonl   prompts and answers; an interrupted audit reuses complete files
audits/ATTACK.json                  per variant: share of facts stated by each model, and KRR if the weights changed
audits/answers/kept.after.jsonl     the unlearned model's answers to retain questions, if the run has none
audits/summary.json                 per attack: start, unlearned and control model; change against the plain question
audits/worst.json                   share of the facts known before that at least one counted attack brings back
audits/verdicts.json                per fact: gone, hidden, there or never_known, and the attacks that decided it
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from relearn.audits.attack import AUDITS, AttackRow, Audit, AuditInputs, FactPrompt
from relearn.audits.attacks.prompting import PLAIN
from relearn.audits.attacks.weights import AuditWork, training_work
from relearn.audits.fact_matching import FactMatches
from relearn.audits.query_models import AnswerFiles, ask_changed_models, ask_prompts, generate_answers, plain_prompts
from relearn.audits.scoring import AuditScorer, FactVerdict, measured_summary, retain_answer, verdicts
from relearn.audits.strength import Strength
from relearn.core import console
from relearn.core.errors import InputError
from relearn.core.files import read_jsonl, write_json, write_jsonl
from relearn.core.run_dir import RunFolder
from relearn.data.record import evenly
from relearn.inference.run_models import ModelName, ModelSet
from relearn.metrics.judges import make_judges

RETAIN_QUESTIONS = 24


def select_audits(names: str, strength: Strength) -> list[Audit]:
    """Parse the names "a,b" into attacks, the plain question first; "all": every attack; "": those of `strength`.

    Raises InputError for unknown names.
    """
    selected = [name.strip() for name in names.split(",") if name.strip()]
    if names == "all" or not names:
        selected = list(AUDITS) if names or strength.attacks is None else list(strength.attacks)
    if not selected:
        raise InputError("no attack named", where="--attacks", way_out=f"all, or of {', '.join(AUDITS)}")
    return [AUDITS.get(PLAIN), *(AUDITS.get(name) for name in dict.fromkeys(selected) if name != PLAIN)]


@dataclass(frozen=True)
class _PromptJob:
    """Hold the prompts of an attack on one model, and the rows stored for them earlier."""

    audit: Audit
    prompts: Sequence[FactPrompt]
    stored: Sequence[AttackRow]

    @cached_property
    def answered(self) -> dict[tuple[str, str, str], AttackRow]:
        return {_key_of(row): row for row in self.stored}

    @cached_property
    def new(self) -> list[FactPrompt]:
        return [prompt for prompt in self.prompts if _prompt_key(prompt) not in self.answered]

    def merged(self, rows: Sequence[AttackRow]) -> list[AttackRow]:
        """Return stored and new rows in the order of the prompts."""
        by_key = self.answered | {_key_of(row): row for row in rows}
        return [by_key[_prompt_key(prompt)] for prompt in self.prompts]


class AuditRun:
    """Run a list of attacks and score them in one run folder."""

    def __init__(self, inputs: AuditInputs, models: ModelSet, audits: Sequence[Audit]):
        self._inputs = inputs
        self._models = models
        self._audits = [audit for audit in audits if audit.family != "adapters" or models.has_adapter]
        self._measured = [audit for audit in self._audits if audit.measure]
        self._asked = [audit for audit in self._audits if not audit.measure]
        self._folder = inputs.folder / "audits"
        self._files = AnswerFiles(inputs.folder)
        self._retain = evenly(inputs.retain, RETAIN_QUESTIONS)
        self._facts_hash = _hash(*(record.id for record in inputs.facts))

    def run(self) -> list[FactVerdict]:
        """Ask the prompts without stored answers, score all answers and write audits/; return one verdict per fact."""
        for model in self._models.roles:
            self._query(model)
        for audit in self._audits:
            self._query_changed(audit)
        with console.stage("look for the facts"):
            return self._score()

    def plan(self) -> AuditWork:
        """Count the prompts and fine-tuning steps without stored answers."""
        prompts = sum(len(job.new) for model in self._models.roles for job in self._prompt_jobs(model))
        relearned = [
            model
            for audit in self._audits
            for model in self._changed_models(audit)
            if audit.family == "relearning" and not self._is_changed_asked(audit, model)
        ]
        own = training_work(self._inputs, len(self._retain))
        return AuditWork(
            prompts=prompts + len(relearned) * own.prompts,
            trainings=len(relearned) * own.trainings,
            steps=len(relearned) * own.steps,
        )

    def _prompt_jobs(self, model: ModelName) -> list[_PromptJob]:
        """List the attacks whose stored answers are not exactly those of their prompts."""
        jobs = []
        for audit in self._asked:
            if audit.prompts is not None:
                job = _PromptJob(audit, audit.prompts(self._inputs), self._files.rows(audit, model))
                if not self._files.exists(audit, model) or list(job.answered) != list(map(_prompt_key, job.prompts)):
                    jobs.append(job)
        return jobs

    def _query(self, model: ModelName) -> None:
        """Run the attacks without stored results on one model, which is loaded at most once."""
        measured = [audit for audit in self._measured if not self._is_measured(audit, model)]
        jobs = self._prompt_jobs(model)
        if not jobs and not measured:
            return
        loaded = self._models.fresh(model)
        for audit in measured:
            assert audit.measure is not None
            with console.stage(f"{model}: {audit.name}"):
                rows = [{**row, "of": self._facts_hash} for row in audit.measure(loaded, self._inputs)]
            self._files.write(audit, model, rows)
        for job in jobs:
            with console.stage(f"{model}: {job.audit.name}", len(job.new)):
                rows = ask_prompts(loaded, job.new, self._inputs)
            self._files.write(job.audit, model, job.merged(rows))

    def _is_measured(self, audit: Audit, model: ModelName) -> bool:
        """Return whether the stored rows of the attack are about exactly the facts of this audit."""
        rows = self._files.rows(audit, model)
        return self._files.exists(audit, model) and all(row["of"] == self._facts_hash for row in rows)

    def _query_changed(self, audit: Audit) -> None:
        """Run a weight attack on the unlearned and the control model."""
        for model in self._changed_models(audit):
            if not self._is_changed_asked(audit, model):
                with console.stage(f"{model}: {audit.name}"):
                    rows = ask_changed_models(partial(self._models.fresh, model), audit, self._inputs, self._retain)
                self._files.write(audit, model, [{**row, "of": self._settings_hash(audit)} for row in rows])

    def _changed_models(self, audit: Audit) -> list[ModelName]:
        """List the models that a weight attack changes; [] for other attacks."""
        models: tuple[ModelName, ...] = ("after",) if audit.family == "adapters" else ("after", "control")
        return [model for model in models if audit.change_weights and model in self._models.roles]

    def _is_changed_asked(self, audit: Audit, model: ModelName) -> bool:
        """Return whether the stored rows of a weight attack are about these facts, with the same settings."""
        of = self._settings_hash(audit)
        return self._files.exists(audit, model) and all(row.get("of") == of for row in self._files.rows(audit, model))

    def _settings_hash(self, audit: Audit) -> str:
        strength = self._inputs.strength
        settings = (strength.relearning, strength.benign_relearning) if audit.family == "relearning" else ()
        return _hash(self._facts_hash, *map(repr, settings))

    def _retain_answers(self) -> list[dict[str, Any]]:
        """Return the unlearned model's answers to retain questions: those of the run, else generated once here."""
        if from_run := RunFolder(self._inputs.folder).answers("after", "retain"):
            return from_run
        own = self._folder / "answers" / "kept.after.jsonl"
        has_weight_attacks = any(audit.change_weights for audit in self._asked)
        if not own.exists() and self._retain and has_weight_attacks:
            loaded = self._models.fresh("after")
            prompts, settings = plain_prompts(self._retain, "asked"), self._inputs.recipe.generate
            answers = generate_answers(loaded, prompts, settings, seed=self._inputs.seed)
            rows = [retain_answer(record, one) for record, one in zip(self._retain, answers, strict=True)]
            write_jsonl(own, rows)
        return read_jsonl(own) if own.exists() else []

    def _judged(self, plain: FactMatches) -> dict[str, str]:
        """Return the questions of the facts, by id, except those whose plain answers were cut off in the thoughts."""
        asked = {record.id: record.question for record in self._inputs.facts}
        judged = {key: text for key, text in asked.items() if plain.answered(key, self._models.roles)}
        if missing := len(asked) - len(judged):
            console.note(f"{missing} of {len(asked)} facts have no verdict: their plain answers were cut off")
        return judged

    def _score(self) -> list[FactVerdict]:
        """Find the facts in all answers, decide the verdicts and write the JSON files."""
        inputs = self._inputs
        judges = make_judges(inputs.recipe.metrics.model_copy(update={"entities": "spacy"}))
        scorer = AuditScorer(inputs, self._retain, judges)
        krr_unchanged = scorer.krr_unchanged(self._retain_answers())
        rows = {audit.name: self._files.rows_by_model(audit) for audit in self._audits}
        results = [scorer.result(audit, rows[audit.name], krr_unchanged) for audit in self._asked]
        plain, *attacks = [result.matches for result in results]
        summary = {result.audit.name: scorer.summary(result.matches, plain) for result in results}
        for result in results:
            write_json(self._folder / f"{result.audit.name}.json", scorer.document(result))
        for audit in self._measured:
            document = scorer.measured_document(audit, rows[audit.name])
            write_json(self._folder / f"{audit.name}.json", document)
            summary[audit.name] = measured_summary(document)
        fact_verdicts = verdicts(self._judged(plain), plain, attacks)
        about = {
            "control": self._models.control_name,
            "facts": len(inputs.facts),
            "krr_unchanged": krr_unchanged,
            "strength": inputs.strength.name,
            "attacks": [audit.name for audit in self._audits],
            "samples": inputs.strength.samples,
            "seed": inputs.seed,
        }
        write_json(self._folder / "summary.json", summary)
        write_json(self._folder / "worst.json", {**scorer.worst(plain, attacks), "strength": inputs.strength.name})
        write_json(self._folder / "verdicts.json", [verdict.to_dict() for verdict in fact_verdicts])
        write_json(self._folder / "about.json", about)
        return fact_verdicts


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _prompt_key(prompt: FactPrompt) -> tuple[str, str, str]:
    return prompt.key, prompt.prompt.text, prompt.prompt.answer_prefix


def _key_of(row: AttackRow) -> tuple[str, str, str]:
    return _prompt_key(FactPrompt.from_dict(row))
