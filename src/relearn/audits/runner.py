"""All attacks on one run: asked, looked through, judged, written to audits/ of its folder.

audits/answers/ATTACK.MODEL.jsonl   what was asked and answered; an audit that was stopped asks nothing twice
audits/ATTACK.json                  per variant: share of facts stated by each model, KRR where the weights changed
audits/summary.json                 per attack: before and after unlearning, control, change against the plain question
audits/verdicts.json                per fact: gone, hidden, there or never_known, and by which attacks
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relearn import console
from relearn.audits.asking import AnswerFiles, ask_changed, ask_questions
from relearn.audits.attacks.plain import PLAIN
from relearn.audits.base import AUDITS, MODELS, Audit, ModelName
from relearn.audits.material import Material
from relearn.audits.models import AuditModels
from relearn.audits.scoring import Scorer
from relearn.audits.verdicts import Told, Verdict, verdicts
from relearn.errors import InputError
from relearn.metrics.judges import make_judges
from relearn.records.sample import evenly
from relearn.rundir import read_jsonl, write_json

KEPT_ASKED = 24


def chosen(names: str) -> list[Audit]:
    """The audits that a list "a,b" or "all" names, the plain question first."""
    wanted = list(AUDITS) if names == "all" else [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise InputError("no attack named", where="--attacks", way_out=f"all, or of {', '.join(AUDITS)}")
    return [AUDITS.get(PLAIN), *(AUDITS.get(name) for name in dict.fromkeys(wanted) if name != PLAIN)]


class AuditRun:
    """One audit of one run folder."""

    def __init__(self, material: Material, models: AuditModels, audits: Sequence[Audit]):
        self._material = material
        self._models = models
        self._audits = [audit for audit in audits if audit.family != "adapters" or models.has_adapter]
        self._files = AnswerFiles(material.folder)
        self._kept = evenly(material.kept, KEPT_ASKED)

    def do(self) -> list[Verdict]:
        for model in MODELS:
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
        if not left:
            return
        loaded = self._models.fresh(model)
        for audit, asks in left:
            with console.stage(f"{model}: {audit.name}", len(asks)):
                rows = ask_questions(loaded, audit, asks, self._material)
            self._files.write(audit, model, rows)

    def _ask_changed(self, audit: Audit) -> None:
        if audit.changes is None:
            return
        for model in ("after",) if audit.family == "adapters" else ("after", "control"):
            if self._files.missing(audit, model):
                with console.stage(f"{model}: {audit.name}"):
                    rows = ask_changed(self._models.maker(model), audit, self._material, self._kept)
                self._files.write(audit, model, rows)

    def _write(self) -> list[Verdict]:
        recipe = self._material.recipe
        judges = make_judges(recipe.metrics.model_copy(update={"entities": "spacy"}))
        scorer = Scorer(self._material.facts, self._kept, recipe.metrics, judges, self._material.seed)
        retain = self._material.folder / "after" / "retain.jsonl"
        unchanged = scorer.unchanged(read_jsonl(retain)) if retain.exists() else None
        found = [(audit, *scorer.told(audit, self._files, unchanged)) for audit in self._audits]
        plain = found[0][1]
        folder = self._material.folder / "audits"
        for audit, _, document in found:
            write_json(folder / f"{audit.name}.json", document)
        write_json(folder / "summary.json", {audit.name: scorer.summary(told, plain) for audit, told, _ in found})
        judged = self._verdicts(plain, [told for _, told, _ in found[1:]])
        write_json(folder / "verdicts.json", [verdict.to_dict() for verdict in judged])
        write_json(folder / "about.json", self._about(unchanged))
        return judged

    def _verdicts(self, plain: Told, attacks: Sequence[Told]) -> list[Verdict]:
        questions = {record.id: record.question for record in self._material.facts}
        return verdicts(questions, plain, attacks)

    def _about(self, unchanged: float | None) -> dict[str, Any]:
        return {
            "control": self._models.control_name, "facts": len(self._material.facts), "krr_unchanged": unchanged,
            "samples": self._material.samples, "seed": self._material.seed,
        }  # fmt: skip
