"""Pairs to train and check on: read, encoded by the lowest layers, ordered into batches."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from relearn.metrics.entailment_builtin.model import Encoder
from relearn.metrics.nli import LABELS

LONGEST = 160


class Pair(NamedTuple):
    premise: str
    hypothesis: str
    label: str


def read_pairs(path: Path) -> list[tuple[Pair, dict]]:
    """The pairs of a file of JSON lines, plain or gzipped, each with its whole row."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(Pair(row["premise"], row["hypothesis"], row["label"]), row) for row in rows]


class States:
    """The output of the frozen lowest layers, worked out once for every text and kept in `folder`, in bfloat16.

    It stays on disk and is mapped, so that processes share what the machine has read of it.
    """

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, groups: Sequence[Sequence[Pair]], folder: Path):
        kept = [_kept(encoder, tokenizer, pairs, folder) for pairs in groups if pairs]
        self._states = [states for states, _ in kept]
        self._first = np.cumsum([0, *(len(states) for states in self._states)])
        moved = [sides[0] + first for (_, sides), first in zip(kept, self._first, strict=False)]
        self._starts, self._lengths = np.concatenate(moved), np.concatenate([sides[1] for _, sides in kept])
        self.labels = torch.tensor([LABELS.index(pair.label) for pairs in groups for pair in pairs])  # type: ignore
        self.totals = self._lengths.sum(1)

    def batch(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states, premise mask and labels of rows that have one and the same number of tokens."""
        token = np.arange(self.totals[rows[0]])
        premise = token < self._lengths[rows, :1]
        own = np.where(premise, self._starts[rows, :1], self._starts[rows, 1:] - self._lengths[rows, :1]) + token
        found = np.empty((*own.shape, self._states[0].shape[1]), dtype=np.int16)
        for states, first in zip(self._states, self._first, strict=False):
            here = (own >= first) & (own < first + len(states))
            found[here] = states[own[here] - first]
        labels = self.labels[torch.from_numpy(rows)]
        return torch.from_numpy(found).view(torch.bfloat16), torch.from_numpy(premise), labels


def _kept(encoder: Encoder, tokenizer: Tokenizer, pairs: Sequence[Pair], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The states (tokens, width) of all texts one after the other, as 16-bit patterns; (2, pairs, 2): where the two
    texts of every pair start, and how long they are."""
    mark = hashlib.sha256(json.dumps([pair[:2] for pair in pairs]).encode()).hexdigest()[:16]
    states, sides = folder / f"states-{mark}.npy", folder / f"sides-{mark}.npy"
    if not states.exists():
        texts = sorted({text for pair in pairs for text in pair[:2]})
        ids = [found.ids[:LONGEST] for found in tokenizer.encode_batch(texts)]
        lengths = np.array([len(found) for found in ids])
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        place = {text: number for number, text in enumerate(texts)}
        rows = np.array([[place[pair.premise], place[pair.hypothesis]] for pair in pairs])
        np.save(sides, np.stack([starts[rows], lengths[rows]]))
        new = folder / f"new-{os.getpid()}.npy"
        np.save(new, _encoded(encoder, ids, lengths, starts).view(torch.int16).numpy())
        os.replace(new, states)
    return np.load(states, mmap_mode="r"), np.load(sides)


@torch.inference_mode()
def _encoded(encoder: Encoder, ids: list[list[int]], lengths: np.ndarray, starts: np.ndarray) -> torch.Tensor:
    lower = encoder.to(torch.bfloat16)
    states = torch.empty(int(lengths.sum()), encoder.words.embedding_dim, dtype=torch.bfloat16)
    for length in np.unique(lengths):
        (same,) = np.nonzero(lengths == length)
        for chunk in np.array_split(same, -(-len(same) * int(length) // 4096)):
            made = lower(torch.tensor([ids[number] for number in chunk]))
            where = starts[chunk][:, None] + np.arange(length)
            states[torch.from_numpy(where.reshape(-1))] = made.reshape(-1, made.shape[-1])
    return states


def batches(totals: np.ndarray, rows: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[list[np.ndarray]]:
    """The rows once each, in steps of `size` of like length, in random order; each step split by number of tokens."""
    order = rng.permutation(rows)
    order = order[np.argsort(totals[order], kind="stable")]
    steps = np.array_split(order, max(1, len(order) // size))
    for number in rng.permutation(len(steps)):
        step = steps[number]
        yield [step[totals[step] == length] for length in np.unique(totals[step])]
