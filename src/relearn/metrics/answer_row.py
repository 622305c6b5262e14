"""Define the answer row: question, reference, response and log-probabilities, as in before/ and after/ of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

AnswerDict = TypeVar("AnswerDict", bound=Mapping[str, Any])


@dataclass(frozen=True)
class AnswerRow:
    """Hold a question, its reference answer, a model's response, and log-probabilities of answers.

    Log-probabilities are in nats, (tokens,), and include the end-of-turn tokens: `closing_tokens` is their number at
    the end of the reference. None means not measured; an empty tuple means a text without tokens.

    reference_logprobs, reference_hits, reference_moments: (reference tokens,) under the model: the log-probability of
        each token, True if it was the likeliest, and (mean, variance) of the log-probability of a token drawn from the
        model's distribution at that position.
    paraphrased_logprobs: of the paraphrased reference. perturbed_logprobs: of each wrong answer of the same form.
    base_logprobs, response_logprobs: of the reference and of the response under the base model (`metrics.base_model`),
        for the reference attack and for PPL.
    cut_off: True if the output ended inside the thoughts of a reasoning model, so that there is no answer to score.
    repeat: 0, or the number of the sample (`generate.repeats`); ids are unique within a repeat.
    form: "chat", or "text" for a passage and its continuation. tags: kinds of probe; see data/record.py.
    choices, choice: the texts of a multiple-choice question's choices and the index of the right one.
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
    cut_off: bool = False

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> AnswerRow:
        values = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        for name, convert in _CONVERTERS.items():
            if values.get(name) is not None:
                values[name] = convert(values[name])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def asked_first(rows: Iterable[AnswerDict]) -> list[AnswerDict]:
    """Select the answer with the lowest `repeat` of each question, in the same order."""
    first: dict[str, AnswerDict] = {}
    for row in rows:
        if (row.get("repeat") or 0) < (first.setdefault(row["id"], row).get("repeat") or 0):
            first[row["id"]] = row
    return list(first.values())


def _tuples(values: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, values))


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
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
