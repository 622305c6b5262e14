"""Ask a model a set of records and keep what it says, with the log-probabilities that the metrics need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relearn.core.config import Generate
from relearn.core.console import Ticker, quiet
from relearn.core.run_dir import read_jsonl, write_jsonl
from relearn.data import Record
from relearn.engine.forward import TokenRow, TokenScores, answer_logprobs, answer_scores
from relearn.engine.generate import generate
from relearn.inference.choice_logprobs import choice_columns
from relearn.models.load import Loaded
from relearn.unlearning.data.encode import Example, closing_tokens, encode, record_example

# Log-probabilities are computed in float32, which holds seven digits.
_DIGITS = 7
# Stands for an impossible token, whose log-probability no JSON can hold: as a probability it is 0 as well.
_IMPOSSIBLE = -10_000.0


@dataclass(frozen=True)
class Answers:
    """The rows of one file: what was asked, what should have come, what came."""

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
    """Answers of the model in memory, with what it thinks of the reference, of its paraphrase and of wrong answers.

    One pass over the model scores them all, a question's answers together. A question that is asked several times
    (`settings.repeats`) has a row for each time, told apart by `repeat`, all first times first. `membership` keeps the
    moments of every token too, which membership attacks need. Records of the split "holdout" are scored and not asked:
    nobody taught the model their answers, so there is nothing to be said of its own; their response is empty.
    """
    responses = _responses(loaded, records, settings, seed, tick)
    rows = encode(loaded.chat, [example for record in records for example in _examples(record)])
    scored = iter(zip(rows, answer_scores(loaded.model, rows), strict=True))
    measured = {record.id: _measured(loaded, record, scored, membership) for record in records}
    chosen = choice_columns(loaded, records)
    return Answers(
        [
            {
                "id": record.id,
                **({"repeat": repeat} if settings.repeats > 1 else {}),
                "question": record.question,
                "reference": record.answer,
                "subject": record.subject,
                "form": record.form,
                "response": responses.get((repeat, record.id), ""),
                "response_logprobs": None,
                **measured[record.id],
                **({"tags": list(record.tags)} if record.tags else {}),
                **chosen.get(record.id, {}),
            }
            for repeat in range(settings.repeats)
            for record in records
            if repeat == 0 or record.split != "holdout"
        ]
    )


def _responses(
    loaded: Loaded, records: Sequence[Record], settings: Generate, seed: int, tick: Ticker
) -> dict[tuple[int, str], str]:
    """By (repeat, id); a question asked several times draws anew each time."""
    responses: dict[tuple[int, str], str] = {}
    for form in ("chat", "text"):
        asked = [
            (repeat, record)
            for repeat in range(settings.repeats)
            for record in records
            if record.form == form and record.split != "holdout"
        ]
        questions = [record.question for _, record in asked]
        texts = generate(loaded, questions, settings, form=form, seed=seed, tick=tick)
        responses.update({(repeat, record.id): text for (repeat, record), text in zip(asked, texts, strict=True)})
    return responses


def _examples(record: Record) -> Iterator[Example]:
    """The reference, then its paraphrase if there is one, then the wrong answers."""
    first = record_example(record)
    yield first
    for answer in (*filter(None, [record.paraphrased_answer]), *record.alternatives):
        yield Example(record.id, record.question, answer, record.form, first.closed)


def _measured(
    loaded: Loaded, record: Record, scored: Iterator[tuple[TokenRow, TokenScores]], membership: bool
) -> dict[str, Any]:
    """The fields of `AnswerRow` that rest on given answers; takes as many off `scored` as `_examples` made."""
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
        wrong = [_logprobs(next(scored)[1]) for _ in record.alternatives]
        fields["perturbed_logprobs"] = [logprobs for logprobs in wrong if logprobs is not None]
    return fields


def with_response_logprobs(base: Loaded, *files: Answers) -> list[Answers]:
    """The same rows with the log-probabilities of the responses under `base`, the model before any fine-tuning.

    PPL is of the words said: the end of turn is left out. An empty response has no tokens and an empty list, one that
    is longer than the base model sees, with its question, has None. Rows that were asked with `membership` get those of
    their references as well, the end of turn included.

    What several models said to the same questions is best given together: a question is then computed once for all of
    them, and an answer that they have in common as well.
    """
    texts = [_for_base(row) for answers in files for row in answers.rows]
    encoded = iter(encode(base.chat, [example for fields in texts for example in fields.values()]))
    rows = [{field: next(encoded) for field in fields} for fields in texts]
    different = {_tokens(row): row for fields in rows for row in fields.values() if _fits(base, row)}
    pieces = answer_logprobs(base.model, list(different.values()))
    known = {tokens: _plain(piece.tolist()) for tokens, piece in zip(different, pieces, strict=True)}
    found = iter([{field: known.get(_tokens(row)) for field, row in fields.items()} for fields in rows])
    return [Answers([{**row, "response_logprobs": [], **next(found)} for row in answers.rows]) for answers in files]


def _for_base(row: dict[str, Any]) -> dict[str, Example]:
    """Field of a row -> the text whose log-probabilities under the base model it holds."""
    texts = {}
    if row["response"]:
        texts["response_logprobs"] = Example(row["id"], row["question"], row["response"], row["form"], closed=False)
    if row.get("reference_moments") is not None:
        closed = row["form"] == "chat"
        texts["base_logprobs"] = Example(row["id"], row["question"], row["reference"], row["form"], closed=closed)
    return texts


def _tokens(row: TokenRow) -> tuple[tuple[int, ...], int]:
    return row.ids, row.answer_start


def _fits(loaded: Loaded, row: TokenRow) -> bool:
    """Whether the model has a position for every token of the row."""
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    return limit is None or len(row.ids) <= limit


def _logprobs(scores: TokenScores) -> list[float] | None:
    return _plain(scores.logprobs.tolist())


def _plain(logprobs: list[float]) -> list[float] | None:
    """Numbers for JSON; None where the model gave something that is no number."""
    if any(value != value for value in logprobs):
        return None
    return [max(_rounded(value), _IMPOSSIBLE) for value in logprobs]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
