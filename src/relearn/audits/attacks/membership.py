"""Membership: do the facts stand out against records that were not to be forgotten, by their likelihood alone?

The AUCs of `metrics/membership.py`. Against a holdout set, above .5 means that the model still shows it was trained on
the facts. Without one the facts are held against kept records, which were trained on as well: a model before
unlearning is near .5 there, and far below it the facts give themselves away by being unlikely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relearn.audits.attack import AUDITS, Audit, Row
from relearn.audits.gathering import Gathering
from relearn.audits.material import Material
from relearn.data import Record
from relearn.engine.forward import answer_scores
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.joint_context import Parts
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, JointMetric
from relearn.models.load import Loaded
from relearn.records.sample import evenly
from relearn.unlearning.data.encode import closing_tokens, encode, record_example

NAMES = {
    "mia_loss": "AUC, loss", "mia_zlib": "AUC, loss over zlib", "mia_min_k": "AUC, min-k",
    "mia_min_k_plus_plus": "AUC, min-k++",
}  # fmt: skip
OTHERS = 200


def _reads(loaded: Loaded, material: Material) -> list[Row]:
    others = evenly(material.holdout or material.kept, OTHERS)
    against = "holdout" if material.holdout else "kept"
    if not others:
        return []
    found = _scored(loaded, material.facts, "forget", against)
    return [*found, *_scored(loaded, others, "others", against)]


def _scored(loaded: Loaded, records: Sequence[Record], part: str, against: str) -> list[Row]:
    tokens = encode(loaded.chat, [record_example(record) for record in records])
    return [
        {
            "key": f"{record.id}/{part}", "part": part, "against": against, "id": record.id,
            "question": record.question, "reference": record.answer, "response": "", "subject": record.subject,
            "reference_logprobs": scores.logprobs.tolist(),
            "reference_moments": list(zip(scores.mean.tolist(), scores.variance.tolist(), strict=True)),
            "closing_tokens": closing_tokens(loaded.chat, own),
        }
        for record, own, scores in zip(records, tokens, answer_scores(loaded.model, tokens), strict=True)
    ]  # fmt: skip


def _gather(rows: Sequence[Row], gathering: Gathering) -> Mapping[str, Measurement]:
    def context(part: str) -> Context:
        own = [AnswerRow.from_dict(one) for one in rows if one["part"] == part]
        return Context(own, "forget", gathering.settings, gathering.judges, gathering.seed)

    parts = Parts({"forget": context("forget"), "holdout": context("others")}, gathering.settings, gathering.seed)
    found = {}
    for name, title in NAMES.items():
        metric = METRICS.get(name)
        measured = metric.measure(parts) if isinstance(metric, JointMetric) else None
        if measured is not None:
            found[f"{title}, against {rows[0]['against']}"] = measured
    return found


AUDITS.add(
    "membership",
    Audit(
        "membership", "Membership", "access", "arXiv 2407.06460",
        "whether the facts stand out by likelihood against holdout records, or kept ones where there are none; .5 is "
        "not at all", counts=False, reads=_reads, gather=_gather, shown="AUC, min-k", needs=("kept",),
    ),
)  # fmt: skip
