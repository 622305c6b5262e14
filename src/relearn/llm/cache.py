"""The answer cache: what was asked once is never asked, or paid for, again.

An answer is committed the moment it arrives, so a process killed at any time has lost only what was under way. The file
holds hashes of prompts and the answers to them, not the prompts.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from relearn.core.errors import InputError
from relearn.core.run_dir import make_private_dir
from relearn.llm.completer import Budget, Completer, Completion, Prompt


@runtime_checkable
class StreamingCompleter(Protocol):
    """A completer that hands over each answer as it arrives and takes prompts only when it can send them."""

    name: str

    def stream(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]: ...


@dataclass
class Usage:
    """`asked` prompts were sent, `cached` were not needed to be, `failed` of the sent ones brought no answer."""

    asked: int = 0
    cached: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    def note(self, completion: Completion) -> None:
        self.asked += 1
        self.failed += not completion.ok
        self.input_tokens += completion.input_tokens
        self.output_tokens += completion.output_tokens


def cache_key(name: str, prompt: Prompt) -> str:
    """sha256 over the completer's name and everything that shapes its answer."""
    parts = {
        "completer": name,
        "text": prompt.text,
        "max_tokens": prompt.max_tokens,
        "temperature": prompt.temperature,
        "attempt": prompt.attempt,
        "seed": prompt.seed if prompt.temperature > 0 else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class AnswerStore:
    """key -> answer in one sqlite file, readable by its owner alone; `path` None keeps it in memory."""

    def __init__(self, path: Path | None):
        self.path = path
        if path is not None:
            make_private_dir(path.parent)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            self._db = sqlite3.connect(path or ":memory:", timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers "
                "(key TEXT PRIMARY KEY, text TEXT NOT NULL, input_tokens INTEGER, output_tokens INTEGER)"
            )
        except sqlite3.DatabaseError as error:
            raise InputError(f"not an answer cache: {error}", where=str(path), way_out="move it away") from None

    def get(self, key: str) -> Completion | None:
        row = self._db.execute("SELECT text, input_tokens, output_tokens FROM answers WHERE key = ?", (key,)).fetchone()
        return Completion(row[0], input_tokens=row[1], output_tokens=row[2], cached=True) if row else None

    def put(self, key: str, completion: Completion) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)",
            (key, completion.text, completion.input_tokens, completion.output_tokens),
        )

    def spent(self) -> tuple[int, int]:
        """(calls, tokens) that the kept answers cost when they were asked."""
        return self._db.execute(
            "SELECT count(*), coalesce(sum(input_tokens + output_tokens), 0) FROM answers"
        ).fetchone()

    def close(self) -> None:
        self._db.close()


class CachedCompleter:
    """`inner` behind an answer cache: looks up first, asks only for what is missing, once however often it is wanted.

    Failures are returned and never kept. A `budget` counts what is sent; it raises BudgetError before it is passed.
    `on_arrival` is called with every answer, kept or new, so that a bar can move.
    """

    def __init__(self, inner: Completer, path: Path | None, budget: Budget | None = None):
        self.inner = inner
        self.name = inner.name
        self.usage = Usage()
        self.budget = budget or Budget()
        self.on_arrival: Callable[[], None] = quietly
        self._store = AnswerStore(path)

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        keys = [cache_key(self.name, prompt) for prompt in prompts]
        known: dict[str, Completion] = {}
        missing: dict[str, Prompt] = {}
        for key, prompt in zip(keys, prompts, strict=True):
            if key in known or key in missing:
                self.usage.cached += 1
            elif (kept := self._store.get(key)) is not None:
                known[key] = kept
                self.usage.cached += 1
                self.on_arrival()
            else:
                missing[key] = prompt
        for key, completion in self._ask(list(missing.items())):
            known[key] = completion
            self.on_arrival()
        first = set()
        answers = []
        for key in keys:
            answers.append(replace(known[key], cached=True) if key in first and known[key].ok else known[key])
            first.add(key)
        return answers

    def kept(self, prompts: Sequence[Prompt]) -> list[Completion | None]:
        """What the cache holds for each prompt; asks nothing."""
        return [self._store.get(cache_key(self.name, prompt)) for prompt in prompts]

    def close(self) -> None:
        self._store.close()

    def _ask(self, wanted: list[tuple[str, Prompt]]) -> Iterator[tuple[str, Completion]]:
        """Send what the budget covers; what it might cover once true counts are known is tried again after that."""
        while wanted:
            sent = 0

            def affordable(wanted: list[tuple[str, Prompt]] = wanted) -> Iterator[Prompt]:
                nonlocal sent
                for _, prompt in wanted:
                    if not self.budget.take(prompt):
                        return
                    sent += 1
                    yield prompt

            for number, completion in _arrivals(self.inner, affordable()):
                key, prompt = wanted[number]
                if completion.ok:
                    self._store.put(key, completion)
                self.budget.settle(prompt, completion)
                self.usage.note(completion)
                yield key, completion
            if not sent:
                raise self.budget.exhausted()
            wanted = wanted[sent:]


def _arrivals(inner: Completer, prompts: Iterator[Prompt]) -> Iterator[tuple[int, Completion]]:
    if isinstance(inner, StreamingCompleter):
        return inner.stream(prompts)
    return enumerate(inner.complete(list(prompts)))


def quietly() -> None:
    """The `on_arrival` that does nothing."""
