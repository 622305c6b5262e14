"""What AltPO's alternate answers will ask for, before anything is spent: one call for each record that brings none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relearn.core import config
from relearn.data import Record
from relearn.synthesis.alternates import ANSWERS, TOKENS_PER_ALTERNATE, alternates_prompt, own_alternates, slots
from relearn.synthesis.generation_cost import LABEL_TOKENS, MESSAGE_TOKENS, Count, Plan, counting, planned
from relearn.synthesis.verification import Verifier


def plan_alternates(
    records: Sequence[Record], settings: config.Synthesis, *, tokenizer: Any = None, prices: config.Prices | None = None
) -> Plan:
    """As `plan`, of `write_alternates`: an alternate answer is taken to be as long as the original one."""
    own = _own(records)
    asked = [record for record in records if record.id not in own]
    count = counting(tokenizer)
    rows = {"alternate": sum(own.values()) + ANSWERS * len(asked)}
    passes = [_of_record(record, count) for record in asked]
    return planned(rows, passes, ANSWERS * len(asked), settings, tokenizer=tokenizer, prices=prices)


def planned_alternates(records: Sequence[Record]) -> int:
    """Alternate answers when every text that is asked for is written and taken."""
    own = _own(records)
    return sum(own.get(record.id, ANSWERS) for record in records)


def _own(records: Sequence[Record]) -> dict[str, int]:
    """Record id -> how many of the answers that it brings will be taken, where any will."""
    if not any(record.alternatives for record in records):
        return {}
    found = own_alternates(records, Verifier(records).leaks).answers
    return {key: len(answers) for key, answers in found.items()}


def _of_record(record: Record, count: Count) -> tuple[int, int, int]:
    sent = count(alternates_prompt(slots(record), seed=0).text) + MESSAGE_TOKENS
    return 1, sent, ANSWERS * (min(count(record.answer), TOKENS_PER_ALTERNATE) + LABEL_TOKENS)
