"""All attacks on one run: asked, looked through, judged, written to audits/ of its folder.

audits/answers/ATTACK.MODEL.jsonl   what was asked and answered; an audit that was stopped asks nothing twice
audits/ATTACK.json                  per variant: share of facts stated by each model, KRR where the weights changed
audits/answers/kept.after.jsonl     kept questions to the unlearned model, where no run has asked them before
audits/summary.json                 per attack: before and after unlearning, control, change against the plain question
audits/worst.json                   share of the facts known before that any attack that counts brings back
audits/verdicts.json                per fact: gone, hidden, there or never_known, and by which attacks
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from relearn.audits import white_box
from relearn.audits.attack import AUDITS, Audit, Material
from relearn.audits.attacks.prompting import PLAIN
from relearn.audits.query_models import AnswerFiles, answers, ask_changed, ask_questions, plain_asks
from relearn.audits.scoring import Scorer, Told, Verdict, verdicts
from relearn.core import console
from relearn.core.errors import InputError
from relearn.core.files import read_jsonl, write_json, write_jsonl
from relearn.data.record import evenly
from relearn.inference.run_models import MODELS, ModelName, ModelSet
from relearn.metrics.judges import Judges, make_judges

KEPT_ASKED = 24


def chosen(names: str) -> list[Audit]:
    """The audits that a list "a,b" or "all" names, the plain question first."""
    wanted = list(AUDITS) if names == "all" else [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise InputError("no attack named", where="--attacks", way_out=f"all, or of {', '.join(AUDITS)}")
    return [AUDITS.get(PLAIN), *(AUDITS.get(name) for name in dict.fromkeys(wanted) if name != PLAIN)]


class AuditRun:
    """One audit of one folder."""

    def __init__(self, material: Material, models: ModelSet, audits: Sequence[Audit]):
        self._material = material
        self._models = models
        self._audits = [audit for audit in audits if audit.family != "adapters" or models.has_adapter]
        self._reading = [audit for audit in self._audits if audit.reads]
        self._asking = [audit for audit in self._audits if not audit.reads]
        self._files = AnswerFiles(material.folder)
        self._kept = evenly(material.kept, KEPT_ASKED)

    def do(self) -> list[Verdict]:
        for model in self._models.roles:
            self._ask_questions(model)
        for audit in self._audits:
            self._ask_changed(audit)
        with console.stage("look for the facts"):
            return self._write()

    def _ask_questions(self, model: ModelName) -> None:
        """All questions of all attacks, with one load of the model."""
        planned = [(audit, audit.asks(self._material)) for audit in self._audits if audit.asks]
        left = [
            (audit, asks) for audit, asks in planned if self._files.missing(audit, model, [ask.key for ask in asks])
        ]
        reading = [audit for audit in self._reading if self._unread(audit, model)]
        if not left and not reading:
            return
        loaded = self._models.fresh(model)
        for audit in reading:
            assert audit.reads is not None
            with console.stage(f"{model}: {audit.name}"):
                found = [{**one, "of": self._keys} for one in audit.reads(loaded, self._material)]
            self._files.write(audit, model, found)
        for audit, asks in left:
            with console.stage(f"{model}: {audit.name}", len(asks)):
                rows = ask_questions(loaded, audit, asks, self._material)
            self._files.write(audit, model, rows)

    def _kept_answers(self) -> list[dict[str, Any]]:
        """What the unlearned model says to kept questions: from its run, else asked here, once."""
        retain = self._material.folder / "after" / "retain.jsonl"
        if retain.exists():
            return read_jsonl(retain)
        own = self._material.folder / "audits" / "answers" / "kept.after.jsonl"
        changing = any(audit.changes for audit in self._asking)
        if not own.exists() and self._kept and changing:
            asks = plain_asks(self._kept, "asked")
            loaded = self._models.fresh("after")
            texts = answers(loaded, asks, self._material.recipe.generate, self._material.seed)
            write_jsonl(
                own,
                [
                    {
                        "id": record.id,
                        "question": record.question,
                        "reference": record.answer,
                        "response": text,
                        "subject": record.subject,
                    }
                    for record, text in zip(self._kept, texts, strict=True)
                ],
            )
        return read_jsonl(own) if own.exists() else []

    @property
    def _keys(self) -> str:
        """Names the facts that numbers were read about."""
        ids = "\n".join(record.id for record in self._material.facts)
        return hashlib.sha256(ids.encode()).hexdigest()[:16]

    def _unread(self, audit: Audit, model: ModelName) -> bool:
        rows = self._files.read(audit, model)
        return self._files.missing(audit, model) or any(one["of"] != self._keys for one in rows)

    def _ask_changed(self, audit: Audit) -> None:
        if audit.changes is None:
            return
        for model in ("after",) if audit.family == "adapters" else ("after", "control"):
            if model in self._models.roles and self._files.missing(audit, model):
                with console.stage(f"{model}: {audit.name}"):
                    rows = ask_changed(partial(self._models.fresh, model), audit, self._material, self._kept)
                self._files.write(audit, model, rows)

    def _write(self) -> list[Verdict]:
        recipe = self._material.recipe
        judges = make_judges(recipe.metrics.model_copy(update={"entities": "spacy"}))
        scorer = Scorer(self._material.facts, self._kept, recipe.metrics, judges, self._material.seed)
        unchanged = scorer.unchanged(self._kept_answers())
        found = [(audit, *scorer.told(audit, self._files, unchanged)) for audit in self._asking]
        plain = found[0][1]
        folder = self._material.folder / "audits"
        for audit, _, document in found:
            write_json(folder / f"{audit.name}.json", document)
        asked = {audit.name: scorer.summary(told, plain) for audit, told, _ in found}
        write_json(folder / "summary.json", {**asked, **self._write_read(judges)})
        write_json(folder / "worst.json", scorer.worst(plain, [told for _, told, _ in found[1:]]))
        judged = self._verdicts(plain, [told for _, told, _ in found[1:]])
        write_json(folder / "verdicts.json", [verdict.to_dict() for verdict in judged])
        write_json(folder / "about.json", self._about(unchanged))
        return judged

    def _write_read(self, judges: Judges) -> dict[str, Any]:
        """Documents of the attacks that read inside; returns their entries of the summary."""
        material = self._material
        gathering = white_box.Gathering(material.facts, material.recipe.metrics, judges, material.seed)
        entries = {}
        for audit in self._reading:
            rows: dict[ModelName, list[dict[str, Any]]] = {m: self._files.read(audit, m) for m in MODELS}
            made = white_box.document(audit, rows, gathering)
            write_json(self._material.folder / "audits" / f"{audit.name}.json", made)
            entries[audit.name] = white_box.summary(made)
        return entries

    def _verdicts(self, plain: Told, attacks: Sequence[Told]) -> list[Verdict]:
        questions = {record.id: record.question for record in self._material.facts}
        return verdicts(questions, plain, attacks)

    def _about(self, unchanged: float | None) -> dict[str, Any]:
        return {
            "control": self._models.control_name,
            "facts": len(self._material.facts),
            "krr_unchanged": unchanged,
            "samples": self._material.samples,
            "seed": self._material.seed,
        }
