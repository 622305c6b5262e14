"""Ask a model a set of records and keep what it says, with the log-probabilities that the metrics need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relearn.config import Generate
from relearn.console import Ticker, quiet
from relearn.models.forward import TokenRow, answer_logprobs
from relearn.models.generate import generate
from relearn.models.load import Loaded
from relearn.records import Record
from relearn.rundir import read_jsonl, write_jsonl
from relearn.tokens.encode import Example, encode, record_example

_DIGITS = 5


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
    loaded: Loaded, records: Sequence[Record], settings: Generate, *, seed: int = 0, tick: Ticker = quiet
) -> Answers:
    """Answers of the model in memory, with the log-probabilities it gives to the reference answers."""
    responses: dict[str, str] = {}
    for form in ("chat", "text"):
        asked = [record for record in records if record.form == form]
        texts = generate(loaded, [record.question for record in asked], settings, form=form, seed=seed, tick=tick)
        responses.update({record.id: text for record, text in zip(asked, texts, strict=True)})
    rows = encode(loaded.chat, [record_example(record) for record in records])
    references = answer_logprobs(loaded.model, rows)
    return Answers(
        [
            {
                "id": record.id, "question": record.question, "reference": record.answer, "subject": record.subject,
                "form": record.form, "response": responses[record.id],
                "reference_logprobs": _rounded(logprobs.tolist()), "response_logprobs": None,
            }
            for record, logprobs in zip(records, references, strict=True)
        ]
    )  # fmt: skip


def with_response_logprobs(base: Loaded, answers: Answers) -> Answers:
    """The same rows with the log-probabilities of the responses under `base`, the model before any fine-tuning.

    PPL is of the words said: the end of turn is left out. An empty response has no tokens and an empty list.
    """
    rows: list[TokenRow] = []
    for row in answers.rows:
        if row["response"]:
            rows += encode(base.chat, [Example(row["id"], row["question"], row["response"], row["form"], closed=False)])
    measured = {
        row.id: _rounded(piece.tolist()) for row, piece in zip(rows, answer_logprobs(base.model, rows), strict=True)
    }
    return Answers([{**row, "response_logprobs": measured.get(row["id"], [])} for row in answers.rows])


def _rounded(values: list[float]) -> list[float]:
    return [round(value, _DIGITS) for value in values]
