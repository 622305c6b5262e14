"""The parts of an evaluation, each in two ways: as relearn does it, and one row at a time as public code does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from relearn.core.config import Generate
from relearn.data import Record
from relearn.engine.generate import generate, stop_ids
from relearn.engine.packing import TokenRow
from relearn.inference.answers import Answers, with_response_logprobs
from relearn.metrics.judges import Judges
from relearn.metrics.nli import LABELS, EntailmentJudge, NLIVerdict
from relearn.models.load import Loaded
from relearn.text.entities import Extractor
from relearn.unlearning.data.encode import Example, encode

PARTS = ("generation", "ppl", "nli", "entities")
# Perplexities and probabilities may be that far apart.
APART = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
# Two tokens whose logits are this near are equally likely but for rounding to bfloat16: there the steps of a logit
# between 16 and 32 are an eighth, and thirty layers round as well.
TIE = 0.5


@dataclass(frozen=True)
class Bench:
    """The model, which is its own base model, and what it is asked. `judge` makes an entailment judge each way."""

    loaded: Loaded
    records: Sequence[Record]
    judge: Callable[[], EntailmentJudge]
    extractor: Extractor
    settings: Generate

    @property
    def apart(self) -> float:
        return APART[self.loaded.model.dtype]


@dataclass(frozen=True)
class Part:
    """One part for `rows` rows. `single` does one of them, `whole` all, with the same results row by row (`same`).

    `sizes`: what there is to do in each row, in `unit`, known once the whole was done. `tied`: whether the results of
    a row, which are not the same, part where two were equally likely but for rounding; never where it is None.
    """

    rows: int
    whole: Callable[[], Sequence[Any]]
    single: Callable[[int], Any]
    sizes: Callable[[Sequence[Any]], Sequence[int]]
    unit: str
    same: Callable[[Any, Any], bool]
    tied: Callable[[int, Any, Any], bool] | None = None


def generation(bench: Bench) -> Part:
    """Greedy answers; one at a time through the model's own `generate`."""
    loaded = bench.loaded
    questions = [record.question for record in bench.records]
    stops = stop_ids(loaded)

    @torch.inference_mode()
    def single(number: int) -> str:
        prompt = loaded.chat.prompt(questions[number], "chat")
        batch = loaded.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(loaded.device)
        output = loaded.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=bench.settings.max_new_tokens,
            eos_token_id=stops,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )
        return loaded.tokenizer.decode(output[0, batch["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    def sizes(answers: Sequence[str]) -> list[int]:
        return [len(loaded.tokenizer(answer, add_special_tokens=False).input_ids) + 1 for answer in answers]

    def tied(number: int, one: str, other: str) -> bool:
        return _gap(loaded, loaded.chat.prompt(questions[number], "chat"), one, other, stops[0]) <= TIE

    return Part(
        len(questions),
        lambda: generate(loaded, questions, bench.settings),
        single,
        sizes,
        "answer tokens",
        lambda one, other: one == other,
        tied if loaded.model.dtype == torch.bfloat16 else None,
    )


@torch.inference_mode()
def _gap(loaded: Loaded, prompt: str, one: str, other: str, stop: int) -> float:
    """How far below the likeliest token the less likely one of those lies with which the two answers part."""
    first, second = ([*loaded.tokenizer(text, add_special_tokens=False).input_ids, stop] for text in (one, other))
    at = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    if at is None:
        return 0.0
    ids = [*loaded.tokenizer(prompt, add_special_tokens=False).input_ids, *first[:at]]
    logits = loaded.model(input_ids=torch.tensor([ids], device=loaded.device)).logits[0, -1].float()
    return float(logits.max() - torch.minimum(logits[first[at]], logits[second[at]]))


def ppl(bench: Bench, answers: Sequence[str]) -> Part:
    """Log-probabilities of what two models said; one at a time with all logits of each row."""
    loaded = bench.loaded
    asked = [
        (record, pair) for record, *pair in zip(bench.records, answers, second_model(answers), strict=True) if pair[0]
    ]
    rows = [
        encode(loaded.chat, [Example(record.id, record.question, text, "chat", closed=False) for text in pair if text])
        for record, pair in asked
    ]
    files = [
        Answers(
            [
                {
                    "id": record.id,
                    "question": record.question,
                    "reference": record.answer,
                    "response": pair[side],
                    "form": "chat",
                }
                for record, pair in asked
            ]
        )
        for side in (0, 1)
    ]

    def whole() -> list[torch.Tensor]:
        before, after = with_response_logprobs(loaded, *files)
        return [
            torch.tensor([*one["response_logprobs"], *other["response_logprobs"]])
            for one, other in zip(before.rows, after.rows, strict=True)
        ]

    def same(one: torch.Tensor, other: torch.Tensor) -> bool:
        return one.shape == other.shape and abs(float(one.mean() - other.mean())) <= bench.apart

    return Part(
        len(rows),
        whole,
        lambda number: torch.cat([_logprobs(loaded, row) for row in rows[number]]),
        lambda _: [sum(len(row.ids) for row in pair) for pair in rows],
        "tokens",
        same,
    )


def second_model(answers: Sequence[str]) -> list[str]:
    """What another model might have said: as long, and seen by nobody before. The answers less their first word."""
    return [answer.partition(" ")[2] for answer in answers]


@torch.inference_mode()
def _logprobs(loaded: Loaded, row: TokenRow) -> torch.Tensor:
    ids = torch.tensor([row.ids], device=loaded.device)
    logits = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
    every = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return every[row.answer_start - 1 :].cpu()


def nli(bench: Bench, answers: Sequence[str]) -> Part:
    """Answer against reference, as the forget set asks it, and the other way round as the retain set does."""
    pairs = [
        (record.answer, answer) if record.split == "retain" else (answer, record.answer)
        for record, answer in zip(bench.records, answers, strict=True)
        if answer
    ]
    alone, together = bench.judge(), bench.judge()

    def same(one: NLIVerdict, other: NLIVerdict) -> bool:
        if one.probabilities is None or other.probabilities is None:
            return one == other
        return all(abs(one.probabilities[label] - other.probabilities[label]) <= bench.apart for label in LABELS)

    return Part(
        len(pairs),
        lambda: together.judge(pairs),
        lambda number: alone.judge([pairs[number]])[0],
        lambda _: [sum(map(len, pair)) for pair in pairs],
        "characters",
        same,
    )


def entities(bench: Bench, answers: Sequence[str]) -> Part:
    """Entities of questions, references and the answers of two models; one at a time all of them for each model."""
    others = second_model(answers)
    given = [(record.question, record.answer) for record in bench.records]

    def whole() -> list[list[Any]]:
        judges = Judges([bench.extractor])
        found = [
            judges.entities([text for pair, answer in zip(given, said, strict=True) for text in (*pair, answer)])
            for said in (answers, others)
        ]
        return [[*found[0][3 * n : 3 * n + 3], *found[1][3 * n : 3 * n + 3]] for n in range(len(given))]

    def single(number: int) -> list[Any]:
        texts = [text for said in (answers, others) for text in (*given[number], said[number])]
        return [bench.extractor.extract([text])[0] for text in texts]

    def sizes(_: Sequence[Any]) -> list[int]:
        return [2 * sum(map(len, pair)) + 2 * len(answer) + 1 for pair, answer in zip(given, answers, strict=True)]

    return Part(len(given), whole, single, sizes, "characters", lambda one, other: one == other)


def make(name: str, bench: Bench, answers: Sequence[str]) -> Part:
    """The part of that name; `answers` are those that generation gave, empty for generation itself."""
    if name == "generation":
        return generation(bench)
    return {"ppl": ppl, "nli": nli, "entities": entities}[name](bench, answers)


def warmed(bench: Bench) -> Bench:
    """Everything once on two short rows, so that nothing is loaded or tried out while the clock runs."""
    few = replace(bench, records=bench.records[:2], settings=bench.settings.model_copy(update={"max_new_tokens": 4}))
    for name in PARTS:
        part = make(name, few, ["He lives in Oslo, Norway.", "She was born on 12 March 1984."])
        part.whole()
        part.single(0)
    return bench
