"""Fluency, relevance and forgetting from 1 to 5 as a language model grades them.

The paper (arXiv 2502.11190) has fluency and relevance graded so. What could not be graded (`grading.py` says when) is
unscored and counted in the note.
"""

from __future__ import annotations

from relearn.metrics.context import Context
from relearn.metrics.llm_judge import RUBRIC, Aspect
from relearn.metrics.metric import METRICS, Measurement, Metric


def _measure(context: Context, aspect: Aspect) -> Measurement:
    judge = context.judges.grader
    if judge is None:
        return context.mean([None] * len(context.rows), why="no judge (metrics.judge)")
    graded = context.judges.grades(context.rows, aspect)
    counts = {
        "the judge failed": sum(item.failure == "failed" for item in graded),
        "its reply was not understood": sum(item.failure == "not understood" for item in graded),
    }
    failures = ", ".join(f"{reason} ({count})" for reason, count in counts.items() if count)
    note = f"judge {judge.name}, rubric {RUBRIC}" + (f"; {failures}" if failures else "")
    return context.mean([None if item.grade is None else float(item.grade) for item in graded], note, failures)


def _add(aspect: Aspect, title: str, better: dict) -> None:
    METRICS.add(
        aspect, Metric(aspect, title, "arXiv 2502.11190", better, lambda context: _measure(context, aspect), ("judge",))
    )


_add("fluency", "Fluency, 1 to 5, by a judge", {"forget": "higher", "retain": "higher"})
_add("relevance", "Relevance, 1 to 5, by a judge", {"forget": "higher", "retain": "higher"})
_add("forgetting", "Forgetting, 1 to 5, by a judge", {"forget": "higher"})
