"""Extraction strength and exact memorisation: how much of the true answer the model would go on with by itself."""

from __future__ import annotations

from relearn.audits.attack import AUDITS, Audit, Row
from relearn.audits.material import Material
from relearn.audits.white_box import row
from relearn.engine.forward import answer_scores
from relearn.metrics.memorization import exact_memorisation, extraction_strength
from relearn.models.load import Loaded
from relearn.unlearning.data.encode import closing_tokens, encode, record_example


def _reads(loaded: Loaded, material: Material) -> list[Row]:
    tokens = encode(loaded.chat, [record_example(record) for record in material.facts])
    found = []
    for record, own, scores in zip(material.facts, tokens, answer_scores(loaded.model, tokens), strict=True):
        hits = [bool(hit) for hit in scores.hits.tolist()][: own.answer_tokens - closing_tokens(loaded.chat, own)]
        found.append(row(record.id, "extraction strength", extraction_strength(hits)))
        found.append(row(record.id, "exact memorisation", exact_memorisation(hits)))
    return found


AUDITS.add(
    "extraction",
    Audit(
        "extraction", "Extraction strength", "access", "arXiv 2506.12618",
        "the share of the true answer that follows its last wrong guess, and the share of tokens guessed right",
        counts=False, reads=_reads, shown="extraction strength",
    ),
)  # fmt: skip
