"""Multiple choice: the true answer among three wrong ones of the same kind; guessing gets a quarter.

By likelihood: the candidate with the highest mean log-probability per token as the answer to the question. By letter:
the candidates are listed and the letters compared, as in MMLU. A vague model that still picks the truth remembers.
"""

from __future__ import annotations

from math import isnan

from relearn.audits.attack import AUDITS, Audit, Row
from relearn.audits.material import Material
from relearn.audits.white_box import row
from relearn.engine.forward import answer_logprobs
from relearn.inference.choice_logprobs import ChoiceQuestion, letter_logprobs
from relearn.leakage.twins import Candidates, candidates
from relearn.metrics.choice_accuracy import likeliest
from relearn.models.load import Loaded
from relearn.unlearning.data.encode import Example, encode

LIKELIHOOD = "right by likelihood"
LETTER = "right by letter"


def _reads(loaded: Loaded, material: Material) -> list[Row]:
    asked = candidates(material.facts, material.kept, material.seed)
    letters = letter_logprobs(loaded, [ChoiceQuestion(one.record.question, one.texts, one.right) for one in asked])
    found: list[Row] = []
    for one, means, by_letter in zip(asked, mean_logprobs(loaded, asked), letters, strict=True):
        found.append(row(one.record.id, LIKELIHOOD, _right(one, means)))
        found.append(row(one.record.id, LETTER, _right(one, by_letter)))
    return found


def mean_logprobs(loaded: Loaded, asked: list[Candidates]) -> list[list[float]]:
    """Per question the mean log-probability per token of each candidate, the end of the turn left out."""
    examples = [
        Example(f"{one.record.id}/{place}", one.record.question, text, "chat", closed=False)
        for one in asked
        for place, text in enumerate(one.texts)
    ]
    found = iter(answer_logprobs(loaded.model, encode(loaded.chat, examples)))
    return [[float(next(found).mean()) for _ in one.texts] for one in asked]


def _right(one: Candidates, values: object) -> float | None:
    if not isinstance(values, list | tuple) or any(isnan(value) for value in values):
        return None
    return float(likeliest(values) == one.right)


AUDITS.add(
    "choice",
    Audit(
        "choice", "Multiple choice", "access", "arXiv 2403.03218",
        "the true answer among three of the same kind, by likelihood and by letter; guessing gets .25",
        counts=False, reads=_reads, shown=LIKELIHOOD, needs=("subjects",),
    ),
)  # fmt: skip
