"""Does one text follow from another, contradict it, or neither: the built-in judge, or a named model.

The paper (arXiv 2502.11190) uses deberta-v3-base-tasksource-nli. For the forget set the answer is the premise and the
reference the hypothesis (does the answer still say it?), for the retain set the other way round.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from relearn.errors import InputError
from relearn.metrics.answers import AnswerRow

if TYPE_CHECKING:
    from relearn.metrics.base import Split

BUILTIN = "builtin"
Label = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Verdict:
    """`label`: the likeliest; `probabilities`: of all three, summing to 1. Both None: the judge failed on the item."""

    label: Label | None
    probabilities: Mapping[Label, float] | None = None


class EntailmentJudge(Protocol):
    """(premise, hypothesis) pairs in, one verdict each out. `truncated` counts the pairs cut to the model's length."""

    name: str
    truncated: int

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]: ...


class PairJudge(ABC):
    """A judge that works in batches of pairs of like length. Called, it gives the probabilities alone."""

    def __init__(self, name: str, batch_size: int):
        self.name = name
        self.truncated = 0
        self._batch_size = batch_size

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[dict[Label, float] | None]:
        """{"entailment": p, "neutral": p, "contradiction": p} for each pair; None where the judge failed."""
        found = (verdict.probabilities for verdict in self.judge(pairs))
        return [None if probabilities is None else dict(probabilities) for probabilities in found]

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        order = sorted(range(len(pairs)), key=lambda index: sum(map(len, pairs[index])))
        found: dict[int, Verdict] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            found.update(zip(batch, self._judge([pairs[index] for index in batch]), strict=True))
        return [found[index] for index in range(len(pairs))]

    @abstractmethod
    def _judge(self, pairs: list[tuple[str, str]]) -> list[Verdict]:
        """The verdicts on one batch."""


def verdicts(rows: Sequence[AnswerRow], split: Split, judge: EntailmentJudge | None) -> list[Verdict | None]:
    """One for each row; None without a judge, and for an empty answer, of which there is nothing to judge."""
    if judge is None:
        return [None] * len(rows)
    asked = [index for index, row in enumerate(rows) if row.response.strip()]
    pairs = [(rows[index].response, rows[index].reference) for index in asked]
    if split == "retain":
        pairs = [(reference, response) for response, reference in pairs]
    given = dict(zip(asked, judge.judge(pairs), strict=True))
    return [given.get(index) for index in range(len(rows))]


def load_entailment(name: str, revision: str | None = None, batch_size: int = 32) -> PairJudge:
    """The judge called `builtin`, or one from a folder or a hub name, whose configuration must name the three labels.

    Raises `MissingPartError` when the built-in judge's base model is not installed.
    """
    if name == BUILTIN:
        from relearn.metrics.entailment_builtin.judge import load_builtin

        return load_builtin(batch_size)
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model = AutoModelForSequenceClassification.from_pretrained(
            name, revision=revision, dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot load the entailment model {name!r}: {str(error).splitlines()[0]}",
            where="metrics.entailment",
            way_out="a folder or a hub name of a sequence-classification model saved as safetensors",
        ) from None
    return TransformersJudge(name, tokenizer, model, batch_size)


class TransformersJudge(PairJudge):
    """On the GPU when there is one, in float32; repeatable, nothing is drawn."""

    def __init__(self, name: str, tokenizer, model, batch_size: int = 32):
        import torch

        super().__init__(name, batch_size)
        self._columns = _label_columns(model.config.id2label, name)
        self._tokenizer = tokenizer
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()
        longest = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        self._limit = int(min(longest, tokenizer.model_max_length))

    def _judge(self, pairs: list[tuple[str, str]]) -> list[Verdict]:
        import torch

        premises, hypotheses = [list(side) for side in zip(*pairs, strict=True)]
        whole = self._tokenizer(premises, hypotheses)["input_ids"]
        self.truncated += sum(len(ids) > self._limit for ids in whole)
        inputs = self._tokenizer(
            premises, hypotheses, padding=True, truncation=True, max_length=self._limit, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            logits = self._model(**inputs).logits[:, self._columns].double()
        return [verdict_of(row) for row in torch.softmax(logits, dim=-1).cpu().tolist()]


def verdict_of(probabilities: Sequence[float]) -> Verdict:
    """The verdict of three probabilities in the order of LABELS; a failed one where they are none."""
    named = dict(zip(LABELS, probabilities, strict=True))
    if not all(0 <= value <= 1 for value in probabilities):
        return Verdict(None)
    return Verdict(max(named, key=lambda label: named[label]), named)


def _label_columns(id2label: Mapping[int, str], name: str) -> list[int]:
    """The columns of entailment, neutral and contradiction among the model's outputs."""
    columns = {str(label).strip().lower(): int(index) for index, label in id2label.items()}
    if not set(LABELS) <= set(columns):
        raise InputError(
            f"{name!r} names its labels {sorted(columns)}, not entailment, neutral and contradiction",
            where="metrics.entailment",
            way_out="a model for natural language inference, or set id2label in its config.json",
        )
    return [columns[label] for label in LABELS]
