"""Tasks from files, offline: multiple choice (MMLU, OpenBookQA, TruthfulQA, WMDP, ...) and sums (GSM8K).

A row with choices is multiple choice: TASK/acc compares letters, TASK/acc_by_text texts for their length (layouts
in inference/choice_logprobs.py). Solved questions in a row's `examples` stand in front of it for the letters. A row whose answer
ends in "#### NUMBER" is a sum: the model is asked as in a chat, and TASK/exact_match is the share of answers whose last
number is that one. A file holds rows of one kind. With a limit rows are taken evenly from the whole file.

The number of one task and how sure it is.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from relearn.core.config import Ability, Generate
from relearn.core.console import Ticker, quiet
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.data.columns import Row, find_layout, to_records
from relearn.data.loaders import read_rows
from relearn.data.record import evenly
from relearn.engine.generate import generate
from relearn.inference.choice_logprobs import ChoiceQuestion, letter_logprobs, lettered, text_logprobs
from relearn.metrics.choice_accuracy import likeliest
from relearn.metrics.metric import Measurement
from relearn.models.load import Loaded

# Half the width of a 95 % interval in standard errors.
WIDTH = 1.96


@dataclass(frozen=True)
class Outcome:
    """A task's score under `name`, "TASK/MEASURE".

    `stderr`: the standard error of the value, None where it cannot be told (one item, no estimate). `items`: the value
    of each question by its place in the task, None where it could not be scored. `by`: what computed it.
    """

    name: str
    value: float | None
    stderr: float | None
    n: int
    items: Mapping[str, float | None] = field(default_factory=dict)
    by: str = "relearn"
    note: str = ""

    @property
    def measurement(self) -> Measurement:
        """With value ± 1.96 standard errors as its interval, kept within 0 and 1 where every item is."""
        low, high = self._interval()
        note = "; ".join(filter(None, [self.note, f"by {self.by}", "interval: 1.96 standard errors" if low else ""]))
        left_out = sum(value is None for value in self.items.values())
        counts: dict[str, Any] = {"n": self.n, "unscored": left_out, "per_record": self.items}
        return Measurement(self.value, low=low, high=high, **counts, note=note)

    def _interval(self) -> tuple[float | None, float | None]:
        if self.value is None or self.stderr is None:
            return None, None
        low, high = self.value - WIDTH * self.stderr, self.value + WIDTH * self.stderr
        known = [value for value in self.items.values() if value is not None]
        if known and all(0 <= value <= 1 for value in known):
            low, high = max(0.0, low), min(1.0, high)
        return low, high

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "stderr": self.stderr,
            "n": self.n,
            "by": self.by,
            "note": self.note,
            "items": dict(self.items),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Outcome:
        return cls(**values)


def averaged(name: str, items: Mapping[str, float | None], note: str = "") -> Outcome:
    """The mean of what could be scored, with the standard error of a mean."""
    known = [value for value in items.values() if value is not None]
    spread = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Outcome(name, fmean(known) if known else None, spread, len(known), items, note=note)


FORMATS = (".jsonl", ".json", ".csv", ".parquet")
SUM_PROMPT = '{question}\nWork it out step by step. End with "#### " and the number alone.'
_FINAL = re.compile(r"####\s*(.+)\s*$")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


@dataclass(frozen=True)
class Task:
    """The questions of a file: either `choices`, or `sums` with the number of each."""

    name: str
    choices: tuple[ChoiceQuestion, ...] = ()
    sums: tuple[tuple[str, Decimal], ...] = ()


def is_file(task: str) -> bool:
    """Whether a task is named by a file of rows."""
    return Path(task).suffix.lower() in FORMATS


def read_task(path: str, limit: int | None = None) -> Task:
    """The task of a file; raises InputError for rows that are neither multiple choice nor sums, or not of one kind."""
    rows = [(where, _clean(values)) for where, values in read_rows(path)]
    if not rows:
        raise InputError("no rows", where=path, way_out="give at least one")
    rows = evenly(rows, limit or len(rows))
    records = _records(rows)
    name = Path(path).stem
    if all(record.choice is not None for record in records):
        asked = [_question(record, values) for record, (_, values) in zip(records, rows, strict=True)]
        return Task(name, choices=tuple(asked))
    numbers = [final_number(record.answer) for record in records]
    for (where, _), number in zip(rows, numbers, strict=True):
        if number is None:
            raise InputError(
                "the row has neither choices nor an answer that ends in #### and a number",
                where=where,
                way_out="see docs/benchmarks.md for the shapes of task files",
            )
    return Task(name, sums=tuple((record.question, number) for record, number in zip(records, numbers, strict=True)))  # pyright: ignore


def _clean(value: Any) -> Any:
    """Control characters as blanks: published files have them, and no question means them."""
    if isinstance(value, str):
        return "".join(" " if unicodedata.category(one) == "Cc" and one not in "\n\t" else one for one in value)
    if isinstance(value, list | tuple):
        return [_clean(entry) for entry in value]
    return {key: _clean(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value


def _records(rows: Sequence[Row]) -> list[Record]:
    columns = list(dict.fromkeys(str(column) for _, values in rows for column in values))
    layout = replace(find_layout(columns, {}, rows[0][0]), tags=())
    return [record for row in rows for _, record in to_records(row, layout, "retain", 128)]


def _question(record: Record, values: Mapping[str, Any]) -> ChoiceQuestion:
    about = values.get("task") or values.get("subject")
    examples = values.get("examples")
    shots = _records([(record.id, shot) for shot in examples]) if isinstance(examples, list) and examples else []
    return ChoiceQuestion(
        record.question,
        record.choices,
        record.choice or 0,
        about.replace("_", " ") if isinstance(about, str) else "",
        tuple(ChoiceQuestion(shot.question, shot.choices, shot.choice or 0) for shot in shots),
    )


def final_number(answer: str) -> Decimal | None:
    """The number after ####, where an answer ends so."""
    found = _FINAL.search(answer)
    return last_number(found[1]) if found else None


def last_number(text: str) -> Decimal | None:
    """The last number a text names, thousands' commas left out: "so 1,200.50 $." gives 1200.50."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def run_task(loaded: Loaded, task: Task, settings: Ability, *, seed: int = 0, tick: Ticker = quiet) -> list[Outcome]:
    """The outcomes of a file's task."""
    if task.sums:
        return [_run_sums(loaded, task, settings, seed, tick)]
    return _run_choices(loaded, task, settings, tick)


def _run_sums(loaded: Loaded, task: Task, settings: Ability, seed: int, tick: Ticker) -> Outcome:
    asked = [SUM_PROMPT.format(question=question) for question, _ in task.sums]
    greedy = Generate(max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size)
    said = generate(loaded, asked, greedy, seed=seed, tick=tick)
    items = {
        str(at): float(last_number(answer) == number)
        for at, (answer, (_, number)) in enumerate(zip(said, task.sums, strict=True))
    }
    note = f"the last number of a greedy answer of at most {settings.max_new_tokens} tokens, asked as in a chat"
    return averaged(f"{task.name}/exact_match", items, note)


def _run_choices(loaded: Loaded, task: Task, settings: Ability, tick: Ticker) -> list[Outcome]:
    guessing = sum(1 / len(question.choices) for question in task.choices) / len(task.choices)
    outcomes = []
    if len({question.right for question in task.choices}) > 1 or len(task.choices) == 1:
        asked = [_fitting(loaded, question, settings.shots) for question in task.choices]
        right = {
            str(at): None if chances is None else float(likeliest(chances) == question.right)
            for at, (question, chances) in enumerate(zip(asked, letter_logprobs(loaded, asked, tick=tick), strict=True))
        }
        note = f"by letter, {_shots(asked)} shots; guessing gets {guessing:.3f}"
        outcomes.append(averaged(f"{task.name}/acc", right, note))
    bare = [replace(question, shots=()) for question in task.choices]
    by_text = {
        str(at): None if chances is None else _right_by_text(question, chances)
        for at, (question, chances) in enumerate(zip(bare, text_logprobs(loaded, bare, tick=tick), strict=True))
    }
    note = f"by text over its length, no shots; guessing gets {guessing:.3f}"
    return [*outcomes, averaged(f"{task.name}/acc_by_text", by_text, note)]


def _right_by_text(question: ChoiceQuestion, chances: Sequence[float]) -> float:
    lengths = [max(1, len(text)) for text in question.choices]
    return float(likeliest([one / length for one, length in zip(chances, lengths, strict=True)]) == question.right)


def _fitting(loaded: Loaded, question: ChoiceQuestion, shots: int | None) -> ChoiceQuestion:
    """The question with as many shots as are wanted and the model has room for, the first ones left out first."""
    config: Any = loaded.model.config
    room = getattr(config.get_text_config(), "max_position_embeddings", None)
    question = replace(question, shots=question.shots[:shots])
    while question.shots and room and len(loaded.tokenizer(lettered(question)).input_ids) + 8 > room:
        question = replace(question, shots=question.shots[1:])
    return question


def _shots(asked: Sequence[ChoiceQuestion]) -> str:
    counts = sorted({len(question.shots) for question in asked})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
