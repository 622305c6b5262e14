"""Plan a training: which rows go into which micro-batch, decided before the first step.

The whole plan is a list, so a resumed run continues exactly where it stopped. Every micro-batch holds the answer tokens
and rows of its optimiser step, so that means over the step do not depend on the accumulation. Several processes divide
the micro-batches of every step between them (`share`), so a plan is the same for any number of processes.
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
    """Answer tokens and rows of one stream in one optimiser step."""

    tokens: int
    rows: int


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward pass: forget rows, the rows that belong to each of them (`beside`, by stream), retain rows.

    `step` gives the size of every stream in the whole optimiser step. An `idle` micro-batch is a placeholder with zero
    loss, so that all ranks take the same number of steps.
    """

    forget: tuple[TokenRow, ...]
    retain: tuple[TokenRow, ...] = ()
    beside: Mapping[str, tuple[TokenRow, ...]] = field(default_factory=dict)
    step: Mapping[str, Size] = field(default_factory=dict)
    idle: bool = False

    def streams(self) -> dict[str, tuple[TokenRow, ...]]:
        """Map streams to their rows, without empty streams."""
        named = {"forget": self.forget, **self.beside, "retain": self.retain}
        return {name: rows for name, rows in named.items() if rows}

    @property
    def tokens(self) -> int:
        """Count all tokens of prompts and answers."""
        return 0 if self.idle else sum(len(row.ids) for rows in self.streams().values() for row in rows)


def plan_batches(
    forget: Sequence[TokenRow],
    retain: Sequence[TokenRow],
    *,
    batch_size: int,
    accumulation: int,
    epochs: float,
    seed: int,
    beside: Mapping[str, Mapping[str, Sequence[TokenRow]]] | None = None,
    token_budget: int | None = None,
) -> list[MicroBatch]:
    """Plan `epochs` passes over the forget rows, or `token_budget` tokens, with as many retain rows as forget rows.

    Retain rows come from an endless shuffled walk over the WHOLE retain set, so that every method sees all of it.
    Batches hold rows of similar length; their order is random. `beside` maps stream and forget row id to the rows that
    belong to it. A token budget counts all tokens of all streams, ends after the optimiser step that reaches it, and
    takes as many epochs as necessary.
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
            for name, table in (beside or {}).items()
        }
        batch = MicroBatch(rows, tuple(next(walk) for _ in rows) if retain else (), others)
        spent += batch.tokens
        batches.append(batch)
    steps = (batches[start : start + accumulation] for start in range(0, len(batches), accumulation))
    return [batch for step in steps for batch in with_step_sizes(step)]


def with_step_sizes(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """Set the sizes of the streams in the whole step on the micro-batches of one optimiser step."""
    rows: dict[str, list[TokenRow]] = {}
    for batch in batches:
        for name, own in batch.streams().items():
            rows.setdefault(name, []).extend(own)
    step = {name: Size(sum(row.answer_tokens for row in all_), len(all_)) for name, all_ in rows.items()}
    return [MicroBatch(batch.forget, batch.retain, batch.beside, step) for batch in batches]


def own_accumulation(accumulation: int, processes: int) -> int:
    """Return how many micro-batches of one optimiser step each process has."""
    return accumulation // math.gcd(accumulation, processes)


def can_share(batch_size: int, accumulation: int, processes: int) -> bool:
    """Return whether the rows of an optimiser step divide evenly among the processes."""
    return batch_size * accumulation % processes == 0


def share(batches: Sequence[MicroBatch], accumulation: int, *, rank: int, processes: int) -> list[MicroBatch]:
    """Select the part of the plan that one process trains on.

    Processes take the micro-batches of a step in turn; where there are too few, each is cut into pieces. In every step
    all processes have equally many, with idle ones where the last step has too few rows, so that together they take the
    same steps as one process would.
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
    """Cut the micro-batch into pieces of every n-th row; fewer pieces when it has fewer rows."""
    pieces = min(pieces, len(batch.forget))
    return [
        replace(
            batch,
            forget=batch.forget[number::pieces],
            retain=batch.retain[number::pieces],
            beside={name: _beside(rows, len(batch.forget), number, pieces) for name, rows in batch.beside.items()},
        )
        for number in range(pieces)
    ]


def _beside(rows: tuple[TokenRow, ...], forget: int, number: int, pieces: int) -> tuple[TokenRow, ...]:
    """Select the rows that belong to every n-th forget row; methods pair rows only where each has equally many."""
    each = len(rows) // forget if len(rows) % forget == 0 else 0
    if not each:
        return rows[number::pieces]
    return tuple(row for at in range(number, forget, pieces) for row in rows[at * each : (at + 1) * each])


def distinct_rows(batches: Iterable[MicroBatch], stream: str) -> list[TokenRow]:
    """List the rows of a stream over the whole plan, each once, in the order of their ids."""
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
