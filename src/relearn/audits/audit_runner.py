"""Run attacks on the models of a run and write the folder audits/.

audits/answers/ATTACK.MODEL.jsonl   prompts and answers; an interrupted audit reuses complete files
audits/ATTACK.json                  per variant: share of facts stated by each model, and KRR if the weights changed
audits/answers/kept.after.jsonl     the unlearned model's answers to retain questions, if the run has none
audits/summary.json                 per attack: start, unlearned and control model; change against the plain question
audits/worst.json                   share of the facts known before that at least one counted attack brings back
audits/verdicts.json                per fact: gone, hidden, there or never_known, and the attacks that decided it
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from relearn import __version__
from relearn.audits.attack import AUDITS, AttackPrompt, AttackRow, Audit, AuditInputs, FactPrompt
from relearn.audits.attacks.prompting import PLAIN
from relearn.audits.attacks.weights import AuditWork, training_work
from relearn.audits.fact_matching import FactMatches
from relearn.audits.query_models import AnswerFiles, ask_changed_models, ask_prompts, generate_answers, plain_prompts
from relearn.audits.scoring import AuditScorer, FactVerdict, measured_summary, retain_answer, verdicts
from relearn.audits.strength import Strength
from relearn.core import console
from relearn.core.errors import InputError
from relearn.core.files import curve_path, read_jsonl, write_json, write_jsonl
from relearn.core.run_dir import RunFolder
from relearn.data.record import evenly
from relearn.inference.run_models import ModelName, ModelSet
from relearn.metrics.judges import make_judges

RETAIN_QUESTIONS = 24
# Increased when relearning trains or asks in another way, so that cached curves are not read.
CURVE_FORMAT = 1


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
    def answered(self) -> dict[tuple[str, AttackPrompt], AttackRow]:
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
        """Count the prompts to decode an answer to, and the fine-tuning steps, without stored answers."""
        jobs = (job for model in self._models.roles for job in self._prompt_jobs(model) if job.audit.answer is None)
        prompts = sum(prompt.prompt.answers for job in jobs for prompt in job.new)
        work = [
            training_work(part, len(self._retain))
            for audit in self._audits
            for model in self._changed_models(audit)
            for part in self._missing_parts(audit, model)
            if audit.family == "relearning" and not self._is_curve_cached(model, part)
        ]
        return AuditWork(
            prompts=prompts + sum(one.prompts for one in work),
            trainings=sum(one.trainings for one in work),
            steps=sum(one.steps for one in work),
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
                rows = ask_prompts(loaded, job.new, self._inputs, answer=job.audit.answer)
            self._files.write(job.audit, model, job.merged(rows))

    def _is_measured(self, audit: Audit, model: ModelName) -> bool:
        """Return whether the stored rows of the attack are about exactly the facts of this audit."""
        rows = self._files.rows(audit, model)
        return self._files.exists(audit, model) and all(row["of"] == self._facts_hash for row in rows)

    def _query_changed(self, audit: Audit) -> None:
        """Run the parts of a weight attack that have no stored answers on the unlearned and the control model."""
        for model in self._changed_models(audit):
            parts, missing = self._parts(audit), self._missing_parts(audit, model)
            stored = self._files.rows(audit, model)
            hashes = [self._settings_hash(audit, part) for part in parts]
            if not missing and all(row.get("of") in hashes for row in stored):
                continue
            with console.stage(f"{model}: {audit.name}"):
                for part in missing:
                    of = self._settings_hash(audit, part)
                    stored = [*stored, *({**row, "of": of} for row in self._changed_rows(audit, model, part))]
                    rows = [row for of in hashes for row in stored if row.get("of") == of]
                    self._files.write(audit, model, rows)
            if not missing:
                self._files.write(audit, model, [row for row in stored if row.get("of") in hashes])

    def _changed_models(self, audit: Audit) -> list[ModelName]:
        """List the models that a weight attack changes; [] for other attacks."""
        is_own = audit.family in ("adapters", "checkpoints")
        models: tuple[ModelName, ...] = ("after",) if is_own else ("after", "control")
        return [model for model in models if audit.change_weights and model in self._models.roles]

    def _parts(self, audit: Audit) -> list[AuditInputs]:
        """Split a relearning attack into its trainings, whose answers are stored one by one."""
        strength = self._inputs.strength
        if audit.family != "relearning":
            return [self._inputs]
        parts = [replace(strength, relearning=(one,), benign_relearning=False) for one in strength.relearning]
        parts += [replace(strength, relearning=())] if strength.benign_relearning else []
        return [replace(self._inputs, strength=part) for part in parts]

    def _missing_parts(self, audit: Audit, model: ModelName) -> list[AuditInputs]:
        """List the parts of a weight attack without stored answers about these facts, with the same settings."""
        parts, stored = self._parts(audit), {row.get("of") for row in self._files.rows(audit, model)}
        if audit.family == "relearning":
            parts = [part for part in parts if training_work(part, 0).trainings]
        elif self._files.exists(audit, model) and not stored:
            return []
        return [part for part in parts if self._settings_hash(audit, part) not in stored]

    def _changed_rows(self, audit: Audit, model: ModelName, part: AuditInputs) -> list[AttackRow]:
        """Ask the changed models of one part; answers of the fine-tuned control model are read from the cache."""
        key = self._curve_key(part) if (model, audit.family) == ("control", "relearning") else None
        if key is not None and (rows := _cached_curve(key)):
            return rows
        roles: Any = self._models.fresh if audit.family == "checkpoints" else partial(self._models.fresh, model)
        rows = ask_changed_models(roles, audit, part, self._retain)
        if key is not None:
            rows = [{**row, "curve": key} for row in rows]
            # A cache folder that cannot be written only costs another training.
            with contextlib.suppress(InputError, OSError):
                write_jsonl(curve_path(key), rows)
        return rows

    def _is_curve_cached(self, model: ModelName, part: AuditInputs) -> bool:
        key = self._curve_key(part) if model == "control" else None
        return key is not None and bool(_cached_curve(key))

    def _curve_key(self, part: AuditInputs) -> str | None:
        """Compute a sha256 of all that the control model's answers after a training depend on; None: not known."""
        if (control := self._models.control_hash) is None:
            return None
        recipe, benign = part.recipe, part.strength.benign_relearning
        records = [part.facts, self._retain, part.retain if benign else (), part.generic if benign else ()]
        settings = [
            repr((part.strength.relearning, benign)),
            recipe.unlearn.lora.model_dump(mode="json"),
            recipe.unlearn.learning_rate,
            recipe.generate.model_dump(mode="json"),
            part.seed,
        ]
        texts = [[(one.id, one.question, one.answer, one.subject, one.form) for one in part] for part in records]
        content = json.dumps([__version__, CURVE_FORMAT, control, settings, texts])
        return hashlib.sha256(content.encode()).hexdigest()

    def _settings_hash(self, audit: Audit, part: AuditInputs) -> str:
        strength = part.strength
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
        summary = {result.audit.name: scorer.summary(result, plain) for result in results}
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


def _cached_curve(key: str) -> list[AttackRow]:
    """Read the answers of a fine-tuned control model from the cache folder; [] where there are none."""
    with contextlib.suppress(InputError, OSError):
        return read_jsonl(curve_path(key))
    return []


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _prompt_key(prompt: FactPrompt) -> tuple[str, AttackPrompt]:
    return prompt.key, prompt.prompt


def _key_of(row: AttackRow) -> tuple[str, AttackPrompt]:
    return _prompt_key(FactPrompt.from_dict(row))
