"""Probes of what is left, by kind: RWKU's levels and attacks (arXiv 2406.10890) as ROUGE-L recall.

A row's kinds are its tags (`records/tags.py`): fill-in, question, one or more attacks. Each kind gets a number of its
own in `groups`; the value is the mean over all probes, so that kinds weigh by their number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.context import Context
from relearn.metrics.measurement import Measurement
from relearn.metrics.metric import METRICS, Metric
from relearn.metrics.overlap import rouge_l_recall

# More kinds than this are names and not kinds.
MOST_KINDS = 40


def kinds(rows: Sequence[AnswerRow]) -> list[str]:
    """The tags of the rows in alphabetical order; none where there are too many to be kinds."""
    found = sorted({tag for row in rows for tag in row.tags})
    return found if len(found) <= MOST_KINDS else []


def broken_down(context: Context, values: Sequence[float | None], note: str = "", why: str = "") -> Measurement:
    """The mean over all rows, with that over the rows of each kind in `groups`."""
    whole = context.mean(values, note, why)
    groups = {}
    for kind in kinds(context.rows):
        own = [(row, value) for row, value in zip(context.rows, values, strict=True) if kind in row.tags]
        part = replace(context, rows=[row for row, _ in own])
        groups[kind] = part.mean([value for _, value in own], why=why)
    return replace(whole, groups=groups)


def _measure(context: Context) -> Measurement:
    values = [rouge_l_recall(row) if row.tags else None for row in context.rows]
    count = len(kinds(context.rows))
    note = f"ROUGE-L recall; by kind of probe in groups ({count})" if count else "ROUGE-L recall"
    return broken_down(context, values, note, "no kind is named, or the reference has no words")


METRICS.add(
    "probe_recall",
    Metric(
        "probe_recall", "Probes by kind, ROUGE-L recall", "arXiv 2406.10890",
        {"forget": "lower", "retain": "higher"}, _measure,
        applies=lambda rows, every: any(row.tags for row in rows),
    ),
)  # fmt: skip
