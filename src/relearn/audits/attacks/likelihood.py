"""Measure probabilities of the true answer: top-k tokens, extraction, multiple choice, membership inference.

topk         whether each token of the secret is among the k likeliest, given the answer before it. An attacker who sees
             next-token probs can read a secret that the model does not generate (arXiv 2502.11190, section 5)
extraction   extraction strength and exact memorisation (metrics/memorization.py)
choice       multiple choice: the true answer and three false ones of the same kind (leakage/twins.py), by mean
             log-probability per token and by letter as in MMLU; guessing scores .25
membership   AUC of separating facts from other records by likelihood (metrics/membership.py). Against a holdout set,
             above .5 shows that the model was trained on the facts. Against retain records, which were trained on too,
             .5 is expected before unlearning; far below .5 the facts are unusually unlikely
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isnan

import torch

from relearn.audits.attack import AttackRow, AuditInputs, FactAggregation, attack, measurement_row
from relearn.data import Record
from relearn.data.record import evenly
from relearn.engine.forward import TokenRow, answer_logits, answer_logprobs, answer_scores
from relearn.inference.choice_logprobs import ChoiceQuestion, letter_logprobs
from relearn.leakage.secrets import Secret, read_secrets, secret_spans
from relearn.leakage.twins import AnswerChoices, answer_choices
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.choice_accuracy import likeliest
from relearn.metrics.context import Context, JointContext
from relearn.metrics.memorization import exact_memorisation, extraction_strength
from relearn.metrics.metric import METRICS, JointMetric, Measurement
from relearn.models.load import Loaded
from relearn.unlearning.data.encode import Example, closing_tokens, encode, record_example

KS = (1, 5, 10, 50)


def ranks(logits: torch.Tensor, targets: torch.Tensor) -> list[int]:
    """Rank each target (n,) among all tokens of logits (n, V); 1 is the likeliest, and a tie counts for the target."""
    own = logits.gather(1, targets[:, None])
    return ((logits > own).sum(1) + 1).tolist()


def secret_positions(pieces: Sequence[str], answer: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Find the positions of the tokens that overlap a secret.

    `pieces`: text of each token. `spans`: (start, end) of each secret in `answer`. Returns [] if the joined pieces do
    not contain `answer`.
    """
    start = "".join(pieces).find(answer)
    if start < 0:
        return []
    positions, offset = [], -start
    for position, piece in enumerate(pieces):
        first, last = offset + len(piece) - len(piece.lstrip()), offset + len(piece.rstrip())
        offset += len(piece)
        if any(first < end and last > begin for begin, end in spans):
            positions.append(position)
    return positions


def answer_pieces(loaded: Loaded, tokens: TokenRow) -> list[str]:
    """Decode the text that each answer token adds."""
    ids = tokens.ids[tokens.answer_start :]
    texts = ["", *(loaded.tokenizer.decode(ids[:end]) for end in range(1, len(ids) + 1))]
    return [text[len(before) :] for before, text in pairwise(texts)]


def top_k_shares(secret_ranks: Sequence[int]) -> Mapping[str, float]:
    """Compute, for each k in KS, the share of a fact's secret tokens in the top k, and whether all of them are."""
    within = {k: [rank <= k for rank in secret_ranks] for k in KS}
    return {f"tokens in top {k}": sum(hits) / len(hits) for k, hits in within.items()} | {
        f"whole secret in top {k}": float(all(hits)) for k, hits in within.items()
    }


@attack(
    "topk",
    label="Top-k next tokens",
    family="access",
    source="arXiv 2502.11190",
    description="whether the secret's tokens are among the likeliest at their place, the answer up to them given",
    headline="tokens in top 10",
)
def top_k(loaded: Loaded, inputs: AuditInputs) -> list[AttackRow]:
    secrets: dict[str, Secret] = {}
    for secret in read_secrets(inputs.facts):
        secrets.setdefault(secret.record.id, secret)
    return [row for record in inputs.facts for row in _top_k_rows(loaded, secrets[record.id], record)]


@torch.no_grad()
def _top_k_rows(loaded: Loaded, secret: Secret, record: Record) -> list[AttackRow]:
    (tokens,) = encode(loaded.chat, [record_example(record)])
    positions = secret_positions(answer_pieces(loaded, tokens), record.answer, secret_spans(secret))
    names = [f"{what} in top {k}" for what in ("tokens", "whole secret") for k in KS]
    if not positions:
        return [measurement_row(record.id, name, None) for name in names]
    logits = answer_logits(loaded.model, [tokens]).float().cpu()
    targets = torch.tensor(tokens.ids[tokens.answer_start :])
    shares = top_k_shares(ranks(logits[positions], targets[positions]))
    return [measurement_row(record.id, name, shares[name]) for name in names]


@attack(
    "extraction",
    label="Extraction strength",
    family="access",
    source="arXiv 2506.12618",
    description="the share of the true answer that follows its last wrong guess, and the share of tokens guessed right",
    headline="extraction strength",
)
def extraction(loaded: Loaded, inputs: AuditInputs) -> list[AttackRow]:
    tokens = encode(loaded.chat, [record_example(record) for record in inputs.facts])
    rows = []
    for record, own, scores in zip(inputs.facts, tokens, answer_scores(loaded.model, tokens), strict=True):
        hits = [bool(hit) for hit in scores.hits.tolist()][: own.answer_tokens - closing_tokens(loaded.chat, own)]
        rows.append(measurement_row(record.id, "extraction strength", extraction_strength(hits)))
        rows.append(measurement_row(record.id, "exact memorisation", exact_memorisation(hits)))
    return rows


BY_LIKELIHOOD, BY_LETTER = "right by likelihood", "right by letter"


@attack(
    "choice",
    label="Multiple choice",
    family="access",
    source="arXiv 2403.03218",
    description="the true answer among three of the same kind, by likelihood and by letter; guessing gets .25",
    headline=BY_LIKELIHOOD,
    needs=("subjects",),
)
def choice(loaded: Loaded, inputs: AuditInputs) -> list[AttackRow]:
    questions = answer_choices(inputs.facts, inputs.retain, inputs.seed)
    by_text = mean_logprobs(loaded, questions)
    lettered = [ChoiceQuestion(question.record.question, question.texts, question.right) for question in questions]
    by_letter = letter_logprobs(loaded, lettered)
    rows: list[AttackRow] = []
    for question, means, letters in zip(questions, by_text, by_letter, strict=True):
        rows.append(measurement_row(question.record.id, BY_LIKELIHOOD, _is_right(question, means)))
        rows.append(measurement_row(question.record.id, BY_LETTER, _is_right(question, letters)))
    return rows


def mean_logprobs(loaded: Loaded, questions: Sequence[AnswerChoices]) -> list[list[float]]:
    """Compute the mean log-probability per token of each choice, without the end-of-turn tokens."""
    examples = [
        Example(f"{question.record.id}/{place}", question.record.question, text, "chat", closed=False)
        for question in questions
        for place, text in enumerate(question.texts)
    ]
    logprobs = iter(answer_logprobs(loaded.model, encode(loaded.chat, examples)))
    return [[float(next(logprobs).mean()) for _ in question.texts] for question in questions]


def _is_right(question: AnswerChoices, values: object) -> float | None:
    """Return 1 if the true answer has the highest value, else 0; None if a value is missing."""
    if not isinstance(values, list | tuple) or any(isnan(value) for value in values):
        return None
    return float(likeliest(values) == question.right)


MEMBERSHIP_METRICS = {
    "mia_loss": "AUC, loss",
    "mia_zlib": "AUC, loss over zlib",
    "mia_min_k": "AUC, min-k",
    "mia_min_k_plus_plus": "AUC, min-k++",
}
MAX_OTHERS = 200


def _membership_measures(rows: Sequence[AttackRow], aggregation: FactAggregation) -> dict[str, Measurement]:
    """Compute the AUC of every membership metric between facts and other records."""

    def context(part: str) -> Context:
        answers = [AnswerRow.from_dict(row) for row in rows if row["part"] == part]
        settings, judges, seed = aggregation.settings, aggregation.judges, aggregation.seed
        return Context(answers, split="forget", settings=settings, judges=judges, seed=seed)

    contexts = {"forget": context("forget"), "holdout": context("others")}
    joint = JointContext(contexts, settings=aggregation.settings, seed=aggregation.seed)
    measures = {}
    for name, label in MEMBERSHIP_METRICS.items():
        metric = METRICS.get(name)
        auc = metric.measure(joint) if isinstance(metric, JointMetric) else None
        if auc is not None:
            measures[f"{label}, against {rows[0]['against']}"] = auc
    return measures


@attack(
    "membership",
    label="Membership",
    family="access",
    source="arXiv 2407.06460",
    description="whether the facts stand out by likelihood against holdout records, or kept ones where there are none; "
    ".5 is not at all",
    aggregate=_membership_measures,
    headline="AUC, min-k",
    needs=("retain",),
)
def membership(loaded: Loaded, inputs: AuditInputs) -> list[AttackRow]:
    others = evenly(inputs.holdout or inputs.retain, MAX_OTHERS)
    against = "holdout" if inputs.holdout else "kept"
    if not others:
        return []
    facts = _likelihood_rows(loaded, inputs.facts, part="forget", against=against)
    return [*facts, *_likelihood_rows(loaded, others, part="others", against=against)]


def _likelihood_rows(loaded: Loaded, records: Sequence[Record], *, part: str, against: str) -> list[AttackRow]:
    """Compute token log-probabilities of the true answers, as rows in the format of the membership metrics."""
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
