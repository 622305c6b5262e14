"""Measure probabilities of the true answer: greedy continuations, top-k tokens, extraction, choice, membership.

every_cut    the greedy continuation of the true answer from every word on, as far as one forward pass over the true
             answer shows it; these are answers, and may decide verdicts
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

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isnan

import torch

from relearn.audits.attack import (
    AttackPrompt,
    AttackRow,
    AuditInputs,
    FactAggregation,
    FactPrompt,
    attack,
    measurement_row,
)
from relearn.audits.attacks.prompting import begun_answer
from relearn.data import Form, Record
from relearn.data.record import evenly
from relearn.engine.forward import TokenRow, answer_logits, answer_logprobs, answer_scores, likeliest_tokens
from relearn.engine.generate import Response
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


def greedy_continuations(loaded: Loaded, prompts: Sequence[FactPrompt], inputs: AuditInputs) -> list[Response]:
    """Compute the beginning of the greedy answer to each prompt, which gives a beginning of its fact's true answer.

    One forward pass over the true answer gives the most likely token at every position, after the true tokens before
    it. So the greedy answer is known up to its first token that differs from the true answer. What decoding would say
    after that is not known: a fact that is found is stated, one that is not found may be stated as well. A prompt whose
    beginning ends inside a token has no answer.
    """
    facts = {record.id: record for record in inputs.facts}
    sources: list[tuple[str, Form, str]] = list(
        dict.fromkeys((one.id, one.prompt.form, one.prompt.text) for one in prompts)
    )
    rows = encode(loaded.chat, [_whole_answer(facts[key], form, text) for key, form, text in sources])
    tokens = dict(zip(sources, zip(rows, likeliest_tokens(loaded.model, rows), strict=True), strict=True))
    places = {source: _places(answer_pieces(loaded, row)) for source, row in zip(sources, rows, strict=True)}
    responses = []
    for one in prompts:
        source = one.id, one.prompt.form, one.prompt.text
        rest = facts[one.id].answer[len(one.prompt.answer_prefix) :].strip()
        place = places[source].get(rest)
        row, choices = tokens[source]
        text = "" if place is None else _greedy_text(loaded, row.answer_ids[place:], choices.tolist()[place:])
        responses.append(Response(text, cut_off=place is None))
    return responses


def _whole_answer(fact: Record, form: Form, text: str) -> Example:
    """Make the example of a fact's true answer after `text`; if this is empty, its first word takes the place."""
    if text:
        return Example(fact.id, text, fact.answer, form, closed=False)
    first, rest = fact.answer.split(maxsplit=1)
    return Example(fact.id, first, rest, form, closed=False)


def _places(pieces: Sequence[str]) -> dict[str, int]:
    """Map each end of the joined pieces to the number of the first piece in it; spaces around it do not count."""
    places: dict[str, int] = {}
    for place in range(len(pieces)):
        places.setdefault("".join(pieces[place:]).strip(), place)
    return places


def _greedy_text(loaded: Loaded, ids: Sequence[int], choices: Sequence[int]) -> str:
    """Decode the likeliest tokens up to and with the first that is not the true one; an unfinished word is left out."""
    right = next((at for at, pair in enumerate(zip(ids, choices, strict=True)) if pair[0] != pair[1]), len(ids))
    text = loaded.tokenizer.decode(list(choices[: right + 1]), skip_special_tokens=True)
    return (text if right == len(ids) else re.sub("[\\w\ufffd]+$", "", text)).strip()


@attack(
    "every_cut",
    label="Completion from every word",
    source="relearn",
    description="the true answer up to each of its words is given, and the most likely tokens go on to the secret",
    documents=True,
    partial_answer=True,
    answer=greedy_continuations,
)
def every_cut(fact: Record) -> dict[str, AttackPrompt]:
    """Cut the true answer before each word but the first; a cut inside a word would give a part of the secret."""
    prompts: dict[str, AttackPrompt] = {}
    for number, word in enumerate(re.finditer(r"(?<=\s)\S+", fact.answer), start=1):
        start, cut = fact.answer[: word.start()].rstrip(), f"{number} word{'s' * (number > 1)}"
        if start.strip():
            prompts |= begun_answer(fact, cut, start)
    return prompts


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
