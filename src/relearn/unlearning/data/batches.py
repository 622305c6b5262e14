"""Plan the micro-batches of a training before its first step.

The plan is a list, so a resumed run continues exactly where it stopped. Every micro-batch has the counts of answer
tokens and rows of its whole optimiser step, so that means over the step do not depend on the accumulation. The plan
does not depend on the number of processes: `share` divides the micro-batches of every step between them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from relearn.engine.forward import TokenRow

_GROUP_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Size:
    """Count the answer tokens and the rows of one stream in one optimiser step."""

    tokens: int
    rows: int


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Hold the rows of one forward pass.

    `forget`: forget rows. `retain`: retain rows. `paired`: the further rows of the forget rows (rejected, mismatched or
    original answers), by stream. `step`: the size of every stream in the whole optimiser step. An `idle` micro-batch
    has zero loss; it gives all processes the same number of micro-batches.
    """

    forget: tuple[TokenRow, ...]
    retain: tuple[TokenRow, ...] = ()
    paired: Mapping[str, tuple[TokenRow, ...]] = field(default_factory=dict)
    step: Mapping[str, Size] = field(default_factory=dict)
    idle: bool = False

    def streams(self) -> dict[str, tuple[TokenRow, ...]]:
        """Map the name of each stream to its rows, without empty streams."""
        named = {"forget": self.forget, **self.paired, "retain": self.retain}
        return {name: rows for name, rows in named.items() if rows}

    @property
    def tokens(self) -> int:
        """Count the tokens of prompts and answers; 0 for an idle micro-batch."""
        return 0 if self.idle else sum(len(row.ids) for rows in self.streams().values() for row in rows)


def plan_batches(
    forget: Sequence[TokenRow],
    retain: Sequence[TokenRow],
    *,
    batch_size: int,
    accumulation: int,
    epochs: float,
    seed: int,
    paired: Mapping[str, Mapping[str, Sequence[TokenRow]]] | None = None,
    token_budget: int | None = None,
) -> list[MicroBatch]:
    """Plan the micro-batches of `epochs` passes over the forget rows, or of `token_budget` tokens.

    Each micro-batch has `batch_size` forget rows and as many retain rows; an optimiser step is `accumulation` of them.
    Retain rows are drawn from the WHOLE retain set, shuffled and repeated without end. Rows of a micro-batch have
    similar lengths; the order of the micro-batches is random. `paired` maps a stream and the id of a forget row to its
    rows in that stream. The token budget counts the tokens of all streams. The plan ends after the optimiser step that
    reaches it, after as many epochs as necessary.
    """
    walk = _endless(retain, seed)
    batches = []
    limit = math.inf if token_budget else math.ceil(epochs * math.ceil(len(forget) / batch_size))
    spent = 0
    for rows in _forget_batches(forget, batch_size, seed):
        at_step = len(batches) % accumulation == 0
        if len(batches) == limit or (token_budget and at_step and spent >= token_budget):
            break
        others = {
            name: tuple(itertools.chain.from_iterable(table[row.id] for row in rows))
            for name, table in (paired or {}).items()
        }
        batch = MicroBatch(rows, tuple(next(walk) for _ in rows) if retain else (), others)
        spent += batch.tokens
        batches.append(batch)
    steps = (batches[start : start + accumulation] for start in range(0, len(batches), accumulation))
    return [batch for step in steps for batch in with_step_sizes(step)]


def with_step_sizes(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """Add the size of every stream in the step to the micro-batches of one optimiser step."""
    rows: dict[str, list[TokenRow]] = {}
    for batch in batches:
        for name, own in batch.streams().items():
            rows.setdefault(name, []).extend(own)
    step = {name: Size(sum(row.answer_tokens for row in all_), len(all_)) for name, all_ in rows.items()}
    return [MicroBatch(batch.forget, batch.retain, batch.paired, step) for batch in batches]


def own_accumulation(accumulation: int, processes: int) -> int:
    """Return the number of micro-batches of one optimiser step in each process."""
    return accumulation // math.gcd(accumulation, processes)


def can_share(batch_size: int, accumulation: int, processes: int) -> bool:
    """Return whether the rows of an optimiser step divide evenly among the processes."""
    return batch_size * accumulation % processes == 0


def share(batches: Sequence[MicroBatch], accumulation: int, *, rank: int, processes: int) -> list[MicroBatch]:
    """Select the micro-batches of the plan that the process `rank` trains on.

    The micro-batches of a step are dealt out to the processes in turn. Micro-batches are cut into pieces where a step
    has too few. In every step all processes get the same number; idle micro-batches fill the last step where it has too
    few rows. All processes together take the same optimiser steps as a single process.
    """
    if processes == 1:
        return list(batches)
    pieces = processes // math.gcd(accumulation, processes)
    own: list[MicroBatch] = []
    for start in range(0, len(batches), accumulation):
        step = batches[start : start + accumulation]
        parts = [part for batch in step for part in _cut(batch, pieces)]
        idle = replace(_cut(step[0], len(step[0].forget))[0], idle=True)
        parts += [idle] * (math.ceil(len(step) * pieces / processes) * processes - len(parts))
        own += parts[rank::processes]
    return own


def _cut(batch: MicroBatch, pieces: int) -> list[MicroBatch]:
    """Cut a micro-batch into `pieces` micro-batches of every n-th row, at most one per forget row."""
    pieces = min(pieces, len(batch.forget))
    return [
        replace(
            batch,
            forget=batch.forget[number::pieces],
            retain=batch.retain[number::pieces],
            paired={name: _paired(rows, len(batch.forget), number, pieces) for name, rows in batch.paired.items()},
        )
        for number in range(pieces)
    ]


def _paired(rows: tuple[TokenRow, ...], forget: int, number: int, pieces: int) -> tuple[TokenRow, ...]:
    """Select the rows of one stream for every n-th of `forget` rows.

    Where the forget rows do not have equally many rows, no method pairs them, and every n-th row is taken.
    """
    each = len(rows) // forget if len(rows) % forget == 0 else 0
    if not each:
        return rows[number::pieces]
    return tuple(row for at in range(number, forget, pieces) for row in rows[at * each : (at + 1) * each])


def distinct_rows(batches: Iterable[MicroBatch], stream: str) -> list[TokenRow]:
    """List the rows of a stream in the whole plan, each once, sorted by id."""
    rows = {row.id: row for batch in batches for row in batch.streams().get(stream, ())}
    return [rows[name] for name in sorted(rows)]


def _forget_batches(rows: Sequence[TokenRow], batch_size: int, seed: int) -> Iterator[tuple[TokenRow, ...]]:
    for epoch in itertools.count() if rows else ():
        yield from _one_epoch(rows, batch_size, random.Random(f"{seed}/forget/{epoch}"))


def _one_epoch(rows: Sequence[TokenRow], batch_size: int, rng: random.Random) -> list[tuple[TokenRow, ...]]:
    shuffled = rng.sample(list(rows), len(rows))
    size = batch_size * _GROUP_BATCHES
    batches = []
    for start in range(0, len(shuffled), size):
        group = sorted(shuffled[start : start + size], key=lambda row: len(row.ids))
        batches += [tuple(group[at : at + batch_size]) for at in range(0, len(group), batch_size)]
    rng.shuffle(batches)
    return batches


def _endless(rows: Sequence[TokenRow], seed: int) -> Iterator[TokenRow]:
    for round_number in itertools.count() if rows else ():
        yield from random.Random(f"{seed}/retain/{round_number}").sample(list(rows), len(rows))
