"""Generate a model's answers to records, and compute the log-probabilities for the metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core.config import Generate
from relearn.core.console import Ticker, note, quiet
from relearn.core.files import read_jsonl, write_jsonl
from relearn.data import Record
from relearn.engine.forward import TokenRow, TokenScores, answer_logprobs, answer_scores
from relearn.engine.generate import Response, respond
from relearn.inference.choice_logprobs import choice_columns
from relearn.models.load import Loaded
from relearn.unlearning.data.encode import Example, closing_tokens, encode, record_example

# Significant digits that are stored: the precision of float32.
_DIGITS = 7
# Replaces minus infinity, which JSON cannot represent; exp of it is also 0.
_IMPOSSIBLE = -10_000.0


@dataclass(frozen=True)
class Answers:
    """Store the rows of one answer file: question, reference, response and scores (fields of `AnswerRow`)."""

    rows: list[dict]

    @classmethod
    def read(cls, path: Path) -> Answers:
        return cls(read_jsonl(path))

    def write(self, path: Path) -> None:
        write_jsonl(path, self.rows)


def ask(
    loaded: Loaded,
    records: Sequence[Record],
    settings: Generate,
    *,
    seed: int = 0,
    tick: Ticker = quiet,
    membership: bool = False,
) -> Answers:
    """Generate answers, and compute log-probabilities of the reference, paraphrased and perturbed answers.

    With `settings.repeats`, a record has one row per repeat, ordered by (repeat, record). `membership` adds the moments
    of every reference token, which membership inference attacks need. For records of the split "holdout", only scores
    are computed: their response is empty, because the model was never trained on their answers. Responses that ended
    inside the thoughts of a reasoning model have no answer: they are marked `cut_off`, and a note says how many.
    """
    responses = _responses(loaded, records, settings, seed=seed, tick=tick)
    rows = encode(loaded.chat, [example for record in records for example in _examples(record)])
    scored = iter(zip(rows, answer_scores(loaded.model, rows), strict=True))
    score_fields = {record.id: _score_fields(loaded, record, scored, membership=membership) for record in records}
    choices = choice_columns(loaded, records)
    return Answers(
        [
            {
                "id": record.id,
                **({"repeat": repeat} if settings.repeats > 1 else {}),
                "question": record.question,
                "reference": record.answer,
                "subject": record.subject,
                "form": record.form,
                **response_fields(responses.get((repeat, record.id), Response(""))),
                "response_logprobs": None,
                **score_fields[record.id],
                **({"tags": list(record.tags)} if record.tags else {}),
                **choices.get(record.id, {}),
            }
            for repeat in range(settings.repeats)
            for record in records
            if repeat == 0 or record.split != "holdout"
        ]
    )


def _responses(
    loaded: Loaded, records: Sequence[Record], settings: Generate, *, seed: int, tick: Ticker
) -> dict[tuple[int, str], Response]:
    """Generate the responses by (repeat, record id); each repeat uses different random numbers."""
    responses: dict[tuple[int, str], Response] = {}
    for form in ("chat", "text"):
        repeated = [
            (repeat, record)
            for repeat in range(settings.repeats)
            for record in records
            if record.form == form and record.split != "holdout"
        ]
        questions = [record.question for _, record in repeated]
        asked = respond(loaded, questions, settings, form=form, seed=seed, tick=tick)
        responses.update({(repeat, record.id): one for (repeat, record), one in zip(repeated, asked, strict=True)})
    note_cut_off(list(responses.values()), settings)
    return responses


def note_cut_off(responses: Sequence[Response], settings: Generate) -> None:
    """Print how many responses have no answer because they ended inside the model's thoughts."""
    if count := sum(response.cut_off for response in responses):
        note(
            f"{count} of {len(responses)} answers cut off in the model's thoughts after {settings.max_new_tokens} "
            "tokens: not scored -> raise generate.max_new_tokens, or set model.thinking: off"
        )


def response_fields(response: Response, name: str = "response") -> dict[str, Any]:
    """Return the text of a response under `name`, with `cut_off` if it has no answer."""
    return {name: response.text, **({"cut_off": True} if response.cut_off else {})}


def _examples(record: Record) -> Iterator[Example]:
    """Yield the reference answer, its paraphrase if there is one, then the perturbed answers."""
    first = record_example(record)
    yield first
    for answer in (*filter(None, [record.paraphrased_answer]), *record.alternatives):
        yield Example(record.id, record.question, answer, record.form, first.closed)


def _score_fields(
    loaded: Loaded, record: Record, scored: Iterator[tuple[TokenRow, TokenScores]], *, membership: bool
) -> dict[str, Any]:
    """Build the score fields of an `AnswerRow`; take one item of `scored` per example of `_examples`."""
    row, scores = next(scored)
    logprobs = _logprobs(scores)
    fields: dict[str, Any] = {"reference_logprobs": logprobs, "closing_tokens": closing_tokens(loaded.chat, row)}
    if logprobs is not None:
        fields["reference_hits"] = scores.hits.int().tolist()
        if membership:
            moments = zip(scores.mean.tolist(), scores.variance.tolist(), strict=True)
            fields["reference_moments"] = [list(map(_rounded, pair)) for pair in moments]
    if record.paraphrased_answer:
        fields["paraphrased_logprobs"] = _logprobs(next(scored)[1])
    if record.alternatives:
        perturbed = [_logprobs(next(scored)[1]) for _ in record.alternatives]
        fields["perturbed_logprobs"] = [logprobs for logprobs in perturbed if logprobs is not None]
    return fields


def with_response_logprobs(base: Loaded, *files: Answers) -> list[Answers]:
    """Add the log-probabilities of the responses under `base`, the model before any fine-tuning.

    They exclude the end-of-turn token, as PPL does. The list is empty for an empty response. It is None if question and
    response exceed the context length of the base model. Rows with `reference_moments` also get `base_logprobs` of
    their references, which include the end-of-turn token.

    Pass the answer files of several models in one call: each question, and each answer that the files share, is then
    computed once.
    """
    examples = [_base_examples(row) for answers in files for row in answers.rows]
    encoded = iter(encode(base.chat, [example for fields in examples for example in fields.values()]))
    rows = [{field: next(encoded) for field in fields} for fields in examples]
    unique = {_tokens(row): row for fields in rows for row in fields.values() if _fits(base, row)}
    scores = answer_logprobs(base.model, list(unique.values()))
    logprobs = {tokens: _plain(score.tolist()) for tokens, score in zip(unique, scores, strict=True)}
    added = iter([{field: logprobs.get(_tokens(row)) for field, row in fields.items()} for fields in rows])
    return [Answers([{**row, "response_logprobs": [], **next(added)} for row in answers.rows]) for answers in files]


def _base_examples(row: dict[str, Any]) -> dict[str, Example]:
    """Map each field with base-model scores to the question and answer to score."""
    examples = {}
    if row["response"]:
        examples["response_logprobs"] = Example(row["id"], row["question"], row["response"], row["form"], closed=False)
    if row.get("reference_moments") is not None:
        closed = row["form"] == "chat"
        examples["base_logprobs"] = Example(row["id"], row["question"], row["reference"], row["form"], closed=closed)
    return examples


def _tokens(row: TokenRow) -> tuple[tuple[int, ...], int]:
    return row.ids, row.answer_start


def _fits(loaded: Loaded, row: TokenRow) -> bool:
    """Return whether the row fits the context length of the model."""
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    return limit is None or len(row.ids) <= limit


def _logprobs(scores: TokenScores) -> list[float] | None:
    return _plain(scores.logprobs.tolist())


def _plain(logprobs: list[float]) -> list[float] | None:
    """Round log-probabilities for JSON; return None if one is NaN."""
    if any(value != value for value in logprobs):
        return None
    return [max(_rounded(value), _IMPOSSIBLE) for value in logprobs]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
