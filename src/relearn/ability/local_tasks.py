"""Run ability tasks from local files: multiple choice (MMLU, OpenBookQA, TruthfulQA, WMDP, ...) and sums (GSM8K).

A file contains rows of one kind:

- Multiple choice: rows with choices. TASK/acc compares the log-probabilities of the choices' letters; the solved
  questions in a row's `examples` come before the question. TASK/acc_by_text compares the log-probabilities of the
  choices' texts, each divided by its length in characters (inference/choice_logprobs.py).
- Sums: rows whose answer ends in "#### NUMBER". The prompt uses the chat format. TASK/exact_match is the share of
  answers whose last number is NUMBER.

With a limit, rows are taken at even distances from the whole file.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from relearn.core.config import Ability, Generate
from relearn.core.console import Ticker, quiet
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.data.columns import RawRow, find_layout, to_records
from relearn.data.loaders import read_rows
from relearn.data.record import evenly
from relearn.engine.generate import respond
from relearn.inference.answers import note_cut_off
from relearn.inference.choice_logprobs import ChoiceQuestion, letter_logprobs, lettered, text_logprobs
from relearn.metrics.choice_accuracy import likeliest
from relearn.metrics.intervals import binomial_interval
from relearn.metrics.metric import Measurement
from relearn.models.load import Loaded

# Half the width of a 95 % interval, in standard errors.
HALF_WIDTH = 1.96
FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SUM_PROMPT = '{question}\nWork it out step by step. End with "#### " and the number alone.'
# Tokens kept free for the end of the prompt and the answer when examples are cut to the context.
_RESERVED_TOKENS = 8
_FINAL = re.compile(r"####\s*(.+)\s*$")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


@dataclass(frozen=True)
class TaskScore:
    """Hold the score of a task; `name` is "TASK/MEASURE".

    `stderr`: standard error of the value; None if unknown (one item, or no estimate). `items`: index of a question in
    the task -> its value; None if it could not be scored. `by`: the program that computed the score.
    """

    name: str
    value: float | None
    stderr: float | None
    n: int
    by: str = "relearn"
    note: str = ""
    items: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def measurement(self) -> Measurement:
        """Convert the score to a measurement with its interval.

        It is that of a share if every item is 0 or 1; otherwise value ± 1.96 standard errors, cut to [0, 1] if every
        item is in that range.
        """
        scored = [value for value in self.items.values() if value is not None]
        if scored and set(scored) <= {0.0, 1.0} and math.isclose(fmean(scored), self.value or 0.0):
            (_, low, high), basis = binomial_interval(scored), ""
        else:
            (low, high), basis = self._interval(), "interval: 1.96 standard errors"
        note = "; ".join(filter(None, [self.note, f"by {self.by}", "" if low is None else basis]))
        left_out = sum(value is None for value in self.items.values())
        counts: dict[str, Any] = {"n": self.n, "unscored": left_out, "per_record": self.items}
        return Measurement(self.value, low=low, high=high, **counts, note=note)

    def _interval(self) -> tuple[float | None, float | None]:
        if self.value is None or self.stderr is None:
            return None, None
        low, high = self.value - HALF_WIDTH * self.stderr, self.value + HALF_WIDTH * self.stderr
        scored = [value for value in self.items.values() if value is not None]
        if scored and all(0 <= value <= 1 for value in scored):
            low, high = max(0.0, low), min(1.0, high)
        return low, high

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def mean_score(name: str, items: Mapping[str, float | None], note: str = "") -> TaskScore:
    """Average the scored items, with the standard error of the mean."""
    scored = [value for value in items.values() if value is not None]
    stderr = stdev(scored) / math.sqrt(len(scored)) if len(scored) > 1 else None
    return TaskScore(name, fmean(scored) if scored else None, stderr, len(scored), note=note, items=items)


@dataclass(frozen=True)
class Task:
    """Hold the questions of a task file: either `choices`, or `sums` as (question, number)."""

    name: str
    choices: tuple[ChoiceQuestion, ...] = ()
    sums: tuple[tuple[str, Decimal], ...] = ()


def is_file(task: str) -> bool:
    """Return whether a task is a file of rows, by its extension."""
    return Path(task).suffix.lower() in FORMATS


def read_task(path: str, limit: int | None = None) -> Task:
    """Read a task file. Raises InputError for no rows, for rows that are neither kind, and for rows of both kinds."""
    rows = [(where, _without_control_characters(values)) for where, values in read_rows(path)]
    if not rows:
        raise InputError("no rows", where=path, way_out="give at least one")
    rows = evenly(rows, limit or len(rows))
    records = _to_records(rows)
    name = Path(path).stem
    if all(record.choice is not None for record in records):
        pairs = zip(records, rows, strict=True)
        return Task(name, choices=tuple(_choice_question(record, values) for record, (_, values) in pairs))
    sums = []
    for (where, _), record in zip(rows, records, strict=True):
        number = final_number(record.answer)
        if number is None:
            raise InputError(
                "the row has neither choices nor an answer that ends in #### and a number",
                where=where,
                way_out="see docs/benchmarks.md for the shapes of task files",
            )
        sums.append((record.question, number))
    return Task(name, sums=tuple(sums))


def _without_control_characters(value: Any) -> Any:
    """Replace control characters, which some published files contain by mistake, by spaces in all texts of a row."""
    if isinstance(value, str):
        return "".join(" " if unicodedata.category(one) == "Cc" and one not in "\n\t" else one for one in value)
    if isinstance(value, list | tuple):
        return [_without_control_characters(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: _without_control_characters(entry) for key, entry in value.items()}
    return value


def _to_records(rows: Sequence[RawRow]) -> list[Record]:
    columns = list(dict.fromkeys(str(column) for _, values in rows for column in values))
    layout = replace(find_layout(columns, {}, rows[0][0]), tags=())
    return [record for row in rows for _, record in to_records(row, layout, "retain", 128)]


def _choice_question(record: Record, values: Mapping[str, Any]) -> ChoiceQuestion:
    topic = values.get("task") or values.get("subject")
    examples = values.get("examples")
    shots = _to_records([(record.id, shot) for shot in examples]) if isinstance(examples, list) and examples else []
    return ChoiceQuestion(
        record.question,
        record.choices,
        record.choice or 0,
        topic.replace("_", " ") if isinstance(topic, str) else "",
        tuple(ChoiceQuestion(shot.question, shot.choices, shot.choice or 0) for shot in shots),
    )


def final_number(answer: str) -> Decimal | None:
    """Parse the number after #### at the end of an answer; None if there is none."""
    match = _FINAL.search(answer)
    return last_number(match[1]) if match else None


def last_number(text: str) -> Decimal | None:
    """Parse the last number of a text, without thousands separators: 1200.50 for "so 1,200.50 $."."""
    numbers = _NUMBER.findall(text)
    return Decimal(numbers[-1].replace(",", "")) if numbers else None


def run_task(loaded: Loaded, task: Task, settings: Ability, *, seed: int = 0, tick: Ticker = quiet) -> list[TaskScore]:
    """Score the model on a task that `read_task` returned."""
    if task.sums:
        return [_run_sums(loaded, task, settings, seed=seed, tick=tick)]
    return _run_choices(loaded, task, settings, tick)


def _run_sums(loaded: Loaded, task: Task, settings: Ability, *, seed: int, tick: Ticker) -> TaskScore:
    prompts = [SUM_PROMPT.format(question=question) for question, _ in task.sums]
    greedy = Generate(max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size)
    responses = respond(loaded, prompts, greedy, seed=seed, tick=tick)
    note_cut_off(responses, greedy)
    items = {
        str(index): None if response.cut_off else float(last_number(response.text) == number)
        for index, (response, (_, number)) in enumerate(zip(responses, task.sums, strict=True))
    }
    note = f"the last number of a greedy answer of at most {settings.max_new_tokens} tokens, asked as in a chat"
    return mean_score(f"{task.name}/exact_match", items, note)


def _run_choices(loaded: Loaded, task: Task, settings: Ability, tick: Ticker) -> list[TaskScore]:
    """Score by text, and also by letter unless the right choice has the same letter in every question."""
    guessing = sum(1 / len(question.choices) for question in task.choices) / len(task.choices)
    scores = []
    if len({question.right for question in task.choices}) > 1 or len(task.choices) == 1:
        with_shots = [_fit_shots(loaded, question, settings.shots) for question in task.choices]
        by_letter = {
            str(index): None if logprobs is None else float(likeliest(logprobs) == question.right)
            for index, (question, logprobs) in enumerate(
                zip(with_shots, letter_logprobs(loaded, with_shots, tick=tick), strict=True)
            )
        }
        note = f"by letter, {_shot_counts(with_shots)} shots; guessing gets {guessing:.3f}"
        scores.append(mean_score(f"{task.name}/acc", by_letter, note))
    bare = [replace(question, shots=()) for question in task.choices]
    by_text = {
        str(index): None if logprobs is None else _is_right_by_text(question, logprobs)
        for index, (question, logprobs) in enumerate(zip(bare, text_logprobs(loaded, bare, tick=tick), strict=True))
    }
    note = f"by text over its length, no shots; guessing gets {guessing:.3f}"
    return [*scores, mean_score(f"{task.name}/acc_by_text", by_text, note)]


def _is_right_by_text(question: ChoiceQuestion, logprobs: Sequence[float]) -> float:
    lengths = [max(1, len(text)) for text in question.choices]
    per_character = [logprob / length for logprob, length in zip(logprobs, lengths, strict=True)]
    return float(likeliest(per_character) == question.right)


def _fit_shots(loaded: Loaded, question: ChoiceQuestion, shots: int | None) -> ChoiceQuestion:
    """Limit the examples to `shots` and to the model's context length; the first examples are dropped first."""
    config: Any = loaded.model.config
    context = getattr(config.get_text_config(), "max_position_embeddings", None) or math.inf
    question = replace(question, shots=question.shots[:shots])

    def is_too_long() -> bool:
        return len(loaded.tokenizer(lettered(question)).input_ids) + _RESERVED_TOKENS > context

    while question.shots and is_too_long():
        question = replace(question, shots=question.shots[1:])
    return question


def _shot_counts(questions: Sequence[ChoiceQuestion]) -> str:
    counts = sorted({len(question.shots) for question in questions})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
