"""The order of training: which rows go into which micro-batch, decided before the first step.

The whole plan is a list, so a resumed run takes up exactly where it stopped, and every micro-batch knows how many
answer tokens and rows its optimiser step has: a mean over the step is then a mean whatever the accumulation. Several
processes share out the micro-batches of every step (`share`), so that a plan is the same for any number of them.
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
    """Rows of one forward: forget rows, what belongs to each of them (`beside`, by stream), and retain rows.

    `step` gives the size of every stream in the whole optimiser step this micro-batch is part of. An `idle` one counts
    for nothing: it keeps a process company that has no rows of its own in the last step.
    """

    forget: tuple[TokenRow, ...]
    retain: tuple[TokenRow, ...] = ()
    beside: Mapping[str, tuple[TokenRow, ...]] = field(default_factory=dict)
    step: Mapping[str, Size] = field(default_factory=dict)
    idle: bool = False

    def streams(self) -> dict[str, tuple[TokenRow, ...]]:
        """All rows by stream; empty streams are left out."""
        named = {"forget": self.forget, **self.beside, "retain": self.retain}
        return {name: rows for name, rows in named.items() if rows}

    @property
    def tokens(self) -> int:
        """All tokens, prompts and answers."""
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
    """Micro-batches for `epochs` passes over the forget rows, or for `token_budget` tokens; as many retain rows beside.

    Retain rows come from an endless shuffled walk over the WHOLE retain set, so every method sees all of it. Batches
    hold rows of similar length; their order is random. `beside` maps stream and forget row id to the rows that belong
    to it. A token budget counts all tokens of all streams, ends after the whole step that reaches it, and takes as
    many epochs as that needs.
    """
    walk = _endless(retain, seed)
    batches = []
    wanted = math.inf if token_budget else math.ceil(epochs * math.ceil(len(forget) / batch_size))
    spent = 0
    for rows in _forget_batches(forget, batch_size, seed):
        at_step = len(batches) % accumulation == 0
        if len(batches) == wanted or (token_budget and at_step and spent >= token_budget):
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
    """The micro-batches of one optimiser step, each told how large its streams are in the whole step."""
    rows: dict[str, list[TokenRow]] = {}
    for batch in batches:
        for name, own in batch.streams().items():
            rows.setdefault(name, []).extend(own)
    step = {name: Size(sum(row.answer_tokens for row in all_), len(all_)) for name, all_ in rows.items()}
    return [MicroBatch(batch.forget, batch.retain, batch.beside, step) for batch in batches]


def own_accumulation(accumulation: int, processes: int) -> int:
    """Micro-batches of one optimiser step that each process has."""
    return accumulation // math.gcd(accumulation, processes)


def can_share(batch_size: int, accumulation: int, processes: int) -> bool:
    """Whether the rows of a whole optimiser step divide evenly among the processes."""
    return batch_size * accumulation % processes == 0


def share(batches: Sequence[MicroBatch], accumulation: int, *, rank: int, processes: int) -> list[MicroBatch]:
    """What one process does of the plan.

    The micro-batches of a step are dealt out whole; where there are too few for that, each is cut into as many pieces
    as it takes. In every step all processes have equally many, with idle ones where rows run out in the last step, so
    that together they do the same steps as one process would.
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
    """The micro-batch in pieces of every n-th row; fewer pieces when it has fewer rows."""
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
    """The rows that stay with every n-th forget row; where these have unlike numbers of them, no method pairs them."""
    each = len(rows) // forget if len(rows) % forget == 0 else 0
    if not each:
        return rows[number::pieces]
    return tuple(row for at in range(number, forget, pieces) for row in rows[at * each : (at + 1) * each])


def distinct_rows(batches: Iterable[MicroBatch], stream: str) -> list[TokenRow]:
    """The rows of a stream over the whole plan, each once, in the order of their ids."""
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
