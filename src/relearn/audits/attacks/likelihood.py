"""Top-k candidates: is a secret's token among the k likeliest at its place, the true answer up to it being given?

An attacker who sees the likeliest next tokens, as many services show them, reads a secret off that the model would
never say by itself (arXiv 2502.11190, section 5, looks at the same places).

Extraction strength and exact memorisation: how much of the true answer the model would go on with by itself.

Multiple choice: the true answer among three wrong ones of the same kind; guessing gets a quarter.

By likelihood: the candidate with the highest mean log-probability per token as the answer to the question. By letter:
the candidates are listed and the letters compared, as in MMLU. A vague model that still picks the truth remembers.

Membership: do the facts stand out against records that were not to be forgotten, by their likelihood alone?

The AUCs of `metrics/membership.py`. Against a holdout set, above .5 means that the model still shows it was trained on
the facts. Without one the facts are held against kept records, which were trained on as well: a model before
unlearning is near .5 there, and far below it the facts give themselves away by being unlikely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isnan

import torch

from relearn.audits.attack import AUDITS, Audit, Gathering, Material, Row
from relearn.audits.white_box import row
from relearn.data import Record
from relearn.data.record import evenly
from relearn.engine.forward import TokenRow, answer_logits, answer_logprobs, answer_scores
from relearn.inference.choice_logprobs import ChoiceQuestion, letter_logprobs
from relearn.leakage.secrets import Secret, read_secrets
from relearn.leakage.twins import Candidates, candidates
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.choice_accuracy import likeliest
from relearn.metrics.context import Context, JointContext
from relearn.metrics.memorization import exact_memorisation, extraction_strength
from relearn.metrics.metric import METRICS, JointMetric, Measurement
from relearn.models.load import Loaded
from relearn.text.normalize import tokenise
from relearn.unlearning.data.encode import Example, closing_tokens, encode, record_example

KS = (1, 5, 10, 50)


def ranks(logits: torch.Tensor, targets: torch.Tensor) -> list[int]:
    """The place of each target among all tokens, 1 for the likeliest: (n, V) and (n,). Ties go to the target."""
    own = logits.gather(1, targets[:, None])
    return ((logits > own).sum(1) + 1).tolist()


def secret_places(pieces: Sequence[str], answer: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Which tokens of an answer touch a secret. `pieces`: the texts of its tokens; `spans`: (start, end) in it."""
    start = "".join(pieces).find(answer)
    if start < 0:
        return []
    places, at = [], -start
    for number, piece in enumerate(pieces):
        begin, end = at + len(piece) - len(piece.lstrip()), at + len(piece.rstrip())
        at += len(piece)
        if any(begin < stop and end > first for first, stop in spans):
            places.append(number)
    return places


def pieces_of(loaded: Loaded, tokens: TokenRow) -> list[str]:
    """The text that each answer token adds."""
    ids = tokens.ids[tokens.answer_start :]
    texts = ["", *(loaded.tokenizer.decode(ids[:end]) for end in range(1, len(ids) + 1))]
    return [text[len(before) :] for before, text in pairwise(texts)]


def shares(found: Sequence[int]) -> Mapping[str, float]:
    """Of the ranks of a fact's secret tokens: how many are within each k, and whether all are."""
    within = {k: [rank <= k for rank in found] for k in KS}
    return {f"tokens in top {k}": sum(held) / len(held) for k, held in within.items()} | {
        f"whole secret in top {k}": float(all(held)) for k, held in within.items()
    }


def _reads(loaded: Loaded, material: Material) -> list[Row]:
    secrets: dict[str, Secret] = {}
    for secret in read_secrets(material.facts):
        secrets.setdefault(secret.record.id, secret)
    return [one for record in material.facts for one in _read(loaded, secrets[record.id], record)]


def secret_spans(secret: Secret) -> list[tuple[int, int]]:
    """Where the answer has names, numbers, dates and rare words that its question has not; of ordinary words where it
    has no others."""
    words = list(zip(tokenise(secret.record.answer), secret.answer, strict=True))
    said = [(token, word) for token, word in words if word.said]
    telling = [token for token, word in said if word.rare or word.named or word.typed] or [token for token, _ in said]
    return [(token.start, token.end) for token in telling]


@torch.no_grad()
def _read(loaded: Loaded, secret: Secret, record: Record) -> list[Row]:
    (tokens,) = encode(loaded.chat, [record_example(record)])
    places = secret_places(pieces_of(loaded, tokens), record.answer, secret_spans(secret))
    names = [f"{what} in top {k}" for what in ("tokens", "whole secret") for k in KS]
    if not places:
        return [row(record.id, name, None) for name in names]
    logits = answer_logits(loaded.model, [tokens]).float().cpu()
    targets = torch.tensor(tokens.ids[tokens.answer_start :])
    found = shares(ranks(logits[places], targets[places]))
    return [row(record.id, name, found[name]) for name in names]


AUDITS.add(
    "topk",
    Audit(
        "topk",
        "Top-k next tokens",
        "access",
        "arXiv 2502.11190",
        "whether the secret's tokens are among the likeliest at their place, the answer up to them given",
        counts=False,
        reads=_reads,
        shown="tokens in top 10",
    ),
)


def _reads_extraction(loaded: Loaded, material: Material) -> list[Row]:
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
        "extraction",
        "Extraction strength",
        "access",
        "arXiv 2506.12618",
        "the share of the true answer that follows its last wrong guess, and the share of tokens guessed right",
        counts=False,
        reads=_reads_extraction,
        shown="extraction strength",
    ),
)


LIKELIHOOD = "right by likelihood"
LETTER = "right by letter"


def _reads_choice(loaded: Loaded, material: Material) -> list[Row]:
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
        "choice",
        "Multiple choice",
        "access",
        "arXiv 2403.03218",
        "the true answer among three of the same kind, by likelihood and by letter; guessing gets .25",
        counts=False,
        reads=_reads_choice,
        shown=LIKELIHOOD,
        needs=("subjects",),
    ),
)


NAMES = {
    "mia_loss": "AUC, loss",
    "mia_zlib": "AUC, loss over zlib",
    "mia_min_k": "AUC, min-k",
    "mia_min_k_plus_plus": "AUC, min-k++",
}
OTHERS = 200


def _reads_membership(loaded: Loaded, material: Material) -> list[Row]:
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
            "key": f"{record.id}/{part}",
            "part": part,
            "against": against,
            "id": record.id,
            "question": record.question,
            "reference": record.answer,
            "response": "",
            "subject": record.subject,
            "reference_logprobs": scores.logprobs.tolist(),
            "reference_moments": list(zip(scores.mean.tolist(), scores.variance.tolist(), strict=True)),
            "closing_tokens": closing_tokens(loaded.chat, own),
        }
        for record, own, scores in zip(records, tokens, answer_scores(loaded.model, tokens), strict=True)
    ]


def _gather(rows: Sequence[Row], gathering: Gathering) -> Mapping[str, Measurement]:
    def context(part: str) -> Context:
        own = [AnswerRow.from_dict(one) for one in rows if one["part"] == part]
        settings, judges, seed = gathering.settings, gathering.judges, gathering.seed
        return Context(own, split="forget", settings=settings, judges=judges, seed=seed)

    contexts = {"forget": context("forget"), "holdout": context("others")}
    parts = JointContext(contexts, settings=gathering.settings, seed=gathering.seed)
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
        "membership",
        "Membership",
        "access",
        "arXiv 2407.06460",
        "whether the facts stand out by likelihood against holdout records, or kept ones where there are none; .5 is "
        "not at all",
        counts=False,
        reads=_reads_membership,
        gather=_gather,
        shown="AUC, min-k",
        needs=("kept",),
    ),
)
