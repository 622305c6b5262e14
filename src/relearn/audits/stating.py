"""Does an answer state a fact? The leak check of synthesis (`relearn.text.leaks`), minus what the attack itself said.

An attack may put half of the answer into the question. Only what the model adds counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from relearn.audits.base import Ask
from relearn.records import Record
from relearn.text.leaks import LeakIndex
from relearn.text.normalise import contains, norms


class Facts:
    """The facts of a forget set, ready to be looked for in answers."""

    def __init__(self, records: Sequence[Record]):
        self._records = {record.id: record for record in records}
        self._index = LeakIndex(records)

    def stated(self, ask: Ask, answer: str) -> list[str]:
        """The parts of the answer that state the fact asked about, in the order they are said; empty when none does."""
        record = self._records[ask.id]
        lead = f"{ask.given} " if ask.given else ""
        told = norms(f"{ask.prompt} {ask.given}")
        found = [
            finding
            for finding in self._index.check(record.question, lead + answer, record_id=record.id)
            if finding.field == "target" and finding.record_id == record.id and finding.end > len(lead)
        ]
        said = [
            (max(finding.start, len(lead)), (lead + answer)[max(finding.start, len(lead)) : finding.end])
            for finding in found
        ]
        words = [text for _, text in sorted(said) if norms(text) and not contains(told, norms(text))]
        return words + [text for text in ask.wanted if contains(norms(answer), norms(text))]
