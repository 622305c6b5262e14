"""Check that a registered metric follows the rules that scoring and the report need."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

from relearn.core import config
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context, JointContext
from relearn.metrics.judges import Judges
from relearn.metrics.metric import METRICS, UNIT_BOUNDS, JointMetric, Measurement, Metric, ScoredSplit
from relearn.metrics.nli import NLIVerdict
from relearn.metrics.retain_reference import ATTACKS, RetainReference
from relearn.synthesis.questions import wording_id
from relearn.text.entities import ExactMatcher

REFERENCE = "Marta Kvist lives in Oslo."
RESPONSES = {
    "empty": "",
    "blank": " \n\t",
    "one word": "Oslo",
    "right": REFERENCE,
    "wrong": "She lives in Lima. It is far.",
    "looping": "at " * 300,
    "varied": " ".join(map(str, range(300))),
    "signs": "?!... --- ((",
    "control character": "a\x00b",
    "template": "$x$ {y} %s",
    "emoji": "\U0001f600\U0001f469\u200d\U0001f467 \U0001f1f3\U0001f1f4",
    "chinese": "他住在奥斯陆。她写信。",
    "russian": "Он живёт в Осло.",
    "arabic": "يعيش في أوسلو",
}
LOGPROBS = {"none": None, "no tokens": (), "some": (-0.5, -3.0), "very low": (-5000.0, -5000.0)}
SETTINGS = config.Metrics(bootstrap=20)
PARTS: dict[str, ScoredSplit] = {
    "forget": "forget",
    "forget_wordings": "forget",
    "retain": "retain",
    "holdout": "holdout",
    "real_authors": "retain",
    "world_facts": "retain",
}


class _CapitalisedWords:
    """Extract every word with a capital letter as an entity."""

    name = "capitalised words"

    def extract(self, texts: Sequence[str]) -> list[list[str] | None]:
        return [[word.strip(".,") for word in text.split() if word[:1].isupper()] for text in texts]


class _SameText:
    """Judge equal texts as entailment and other texts as neutral."""

    name = "same text"
    truncated = 0

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[NLIVerdict]:
        return [NLIVerdict("entailment" if premise == hypothesis else "neutral") for premise, hypothesis in pairs]


def check_metric(name: str) -> list[str]:
    """Check a metric on made-up answers, and return one line for each rule that it breaks.

    The rules: it has a label, a description, known directions and a known unit. It gives one finite value or None per
    row. Rows without a value or without an input it needs are unscored, not zero; without rows there is no value. The
    value is within its interval and the bounds of its unit. The order of the rows has no effect, and the rows do not
    change. The test answers are empty, degenerate and in several scripts, with and without log-probabilities; no model
    is loaded. Raises InputError for a name that is not registered.
    """
    metric = METRICS.get(name)
    faults = [*_declaration_faults(metric)]
    for split in metric.better:
        try:
            faults += _joint_faults(metric) if isinstance(metric, JointMetric) else _split_faults(metric, split)
        except Exception as error:
            faults.append(f"fails on the {split} set: {type(error).__name__}: {error}")
    return list(dict.fromkeys(faults))


def _declaration_faults(metric: Metric) -> Iterator[str]:
    for field in ("label", "description"):
        if not getattr(metric, field).strip():
            yield f"has no {field}"
    if not metric.better or not set(metric.better) <= {"forget", "retain"}:
        yield "better: name the splits forget or retain"
    if not set(metric.better.values()) <= {"higher", "lower", "closer"}:
        yield "better: the direction is one of higher, lower and closer"
    if metric.unit not in UNIT_BOUNDS:
        yield f"unit: one of {', '.join(UNIT_BOUNDS)}"


def _split_faults(metric: Metric, split: ScoredSplit) -> Iterator[str]:
    for logprobs in LOGPROBS:
        rows = _rows(logprobs)
        for batch in (rows, *([row] for row in rows)):
            where = f"{split} set, log-probabilities: {logprobs}" + (
                f", answer: {batch[0].id}" if len(batch) == 1 else ""
            )
            yield from (f"{fault} ({where})" for fault in _batch_faults(metric, split, batch))
    nothing = _measure(metric, split, [])
    if (nothing.value, nothing.low, nothing.high, nothing.n, nothing.unscored) != (None, None, None, 0, 0):
        yield f"no rows give a value ({split} set)"
    right = [row for row in _rows("none") if row.response == REFERENCE]
    if metric.needs and _measure(metric, split, right, Judges(missing="no judges")).n:
        yield f"an answer has a value although what the metric needs is missing ({split} set)"


def _batch_faults(metric: Metric, split: ScoredSplit, rows: list[AnswerRow]) -> Iterator[str]:
    before = copy.deepcopy(rows)
    measured = _measure(metric, split, rows)
    if rows != before:
        yield "changes the rows"
    if set(measured.per_record) != {row.id for row in rows} or measured.n + measured.unscored != len(rows):
        yield "does not have one value per row"
    if sum(value is not None for value in measured.per_record.values()) != measured.n:
        yield "counts rows without a value as scored"
    if (measured.value is None) != (measured.n == 0):
        yield "has no value although rows are scored, or a value although none is"
    yield from _value_faults(metric, measured)
    backwards = _measure(metric, split, rows[::-1])
    if (backwards.value, backwards.per_record) != (measured.value, measured.per_record):
        yield "the order of the rows changes the value"


def _value_faults(metric: Metric, measured: Measurement) -> Iterator[str]:
    value, low, high = measured.value, measured.low, measured.high
    known = [number for number in (value, low, high, *measured.per_record.values()) if number is not None]
    if not all(map(math.isfinite, known)):
        yield "a value is not finite"
    least, greatest = UNIT_BOUNDS.get(metric.unit, (None, None))
    if value is not None and not (least is None or value >= least) & (greatest is None or value <= greatest):
        yield f"the value {value:g} is out of the bounds of the unit {metric.unit}"
    if value is not None and low is not None and high is not None and not low <= value <= high:
        yield "the value is outside of its interval"


def _joint_faults(metric: JointMetric) -> Iterator[str]:
    for logprobs in LOGPROBS:
        parts = {part: _rows(logprobs, wording=part == "forget_wordings") for part in PARTS}
        measured = metric.measure(_joint_context(parts))
        backwards = metric.measure(_joint_context({part: rows[::-1] for part, rows in parts.items()}))
        if measured is not None:
            yield from (f"{fault} (log-probabilities: {logprobs})" for fault in _value_faults(metric, measured))
        if (measured and measured.value) != (backwards and backwards.value):
            yield f"the order of the rows changes the value (log-probabilities: {logprobs})"
    if (measured := metric.measure(_joint_context({}))) is not None and measured.value is not None:
        yield "a run without parts has a value"


def _measure(metric: Metric, split: ScoredSplit, rows: list[AnswerRow], judges: Judges | None = None) -> Measurement:
    measured = metric.measure(_context(rows, split, judges))
    assert measured is not None, "no measurement"
    return measured


def _context(rows: list[AnswerRow], split: ScoredSplit, judges: Judges | None = None) -> Context:
    judges = judges or Judges((_CapitalisedWords(),), ExactMatcher(), _SameText())
    return Context(rows, split=split, settings=SETTINGS, judges=judges)


def _joint_context(parts: dict[str, list[AnswerRow]]) -> JointContext:
    contexts = {part: _context(rows, PARTS[part]) for part, rows in parts.items()}
    reference = RetainReference("reference", (-0.5, 0.0, 0.5), dict.fromkeys(ATTACKS, 0.5))
    return JointContext(contexts, settings=SETTINGS, reference=reference)


def _rows(logprobs: str, wording: bool = False) -> list[AnswerRow]:
    values = LOGPROBS[logprobs]
    measured = {} if values is None else _log_probabilities(values)
    return [
        AnswerRow(
            wording_id(key, 1) if wording else key, "Where does she live?", REFERENCE, response, "Kvist", **measured
        )
        for key, response in RESPONSES.items()
    ]


def _log_probabilities(values: tuple[float, ...]) -> dict:
    return {
        "reference_logprobs": values,
        "response_logprobs": values,
        "paraphrased_logprobs": values,
        "perturbed_logprobs": (values, values),
        "base_logprobs": values,
        "reference_hits": tuple(value > -1 for value in values),
        "reference_moments": tuple((value, 1.0) for value in values),
        "choices": ("Oslo", "Lima") if values else (),
        "choice": 0 if values else None,
        "letter_logprobs": values,
        "choice_logprobs": values,
    }
