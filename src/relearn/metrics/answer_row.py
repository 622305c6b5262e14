"""Answers on disk: one row per question asked, in before/ and after/ of a run folder or in a file of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

Row = TypeVar("Row", bound=Mapping[str, Any])


@dataclass(frozen=True)
class AnswerRow:
    """A question, the reference answer, what a model said, and what it thinks of the answers it did not give.

    All log-probabilities are natural ones, one for each token of an answer, the tokens that close the turn included:
    `closing_tokens` says how many of the reference's last tokens those are. None means not measured; an empty tuple
    means a text without tokens.

    reference_logprobs, reference_hits, reference_moments: (reference tokens,) the log-probability of every token under
        the model asked, whether it was the likeliest, and mean and variance of the log-probability of a token drawn
        from the model's own distribution there.
    paraphrased_logprobs: the same for the reference in other words. perturbed_logprobs: for every wrong answer of like
        form.
    base_logprobs, response_logprobs: of the reference and of the response under the base model (`metrics.base_model`);
        the reference attack and PPL rest on them.
    repeat: 0, or which time the question was asked (`generate.repeats`); an id stands once in each.
    form: "chat", or "text" for a passage and how it goes on. tags: what kind of probe it is; see data/record.py.
    choices, choice: of a multiple-choice question the texts it offers and the place of the right one.
    letter_logprobs, choice_logprobs: (choices,) of each choice's letter and of its text, summed over its tokens, in the
        layouts of inference/choice_logprobs.py.
    """

    id: str
    question: str
    reference: str
    response: str
    subject: str | None = None
    reference_logprobs: tuple[float, ...] | None = None
    response_logprobs: tuple[float, ...] | None = None
    reference_hits: tuple[bool, ...] | None = None
    reference_moments: tuple[tuple[float, float], ...] | None = None
    closing_tokens: int = 0
    paraphrased_logprobs: tuple[float, ...] | None = None
    perturbed_logprobs: tuple[tuple[float, ...], ...] | None = None
    base_logprobs: tuple[float, ...] | None = None
    repeat: int = 0
    form: str = "chat"
    tags: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    choice: int | None = None
    letter_logprobs: tuple[float, ...] | None = None
    choice_logprobs: tuple[float, ...] | None = None

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> AnswerRow:
        known = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        for name, read in _READ.items():
            if known.get(name) is not None:
                known[name] = read(known[name])
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def asked_first(rows: Iterable[Row]) -> list[Row]:
    """Of rows in the shape of an answer file, those of the first time each question was asked, in their order."""
    first: dict[str, Row] = {}
    for row in rows:
        held = first.setdefault(row["id"], row)
        if (row.get("repeat") or 0) < (held.get("repeat") or 0):
            first[row["id"]] = row
    return list(first.values())


def _tuples(values: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, values))


_READ: dict[str, Callable[[Any], Any]] = {
    "reference_logprobs": tuple,
    "response_logprobs": tuple,
    "paraphrased_logprobs": tuple,
    "base_logprobs": tuple,
    "reference_hits": lambda values: tuple(map(bool, values)),
    "reference_moments": _tuples,
    "perturbed_logprobs": _tuples,
    "tags": tuple,
    "choices": tuple,
    "letter_logprobs": tuple,
    "choice_logprobs": tuple,
}
