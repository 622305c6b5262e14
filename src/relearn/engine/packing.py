"""Pack token rows into one unpadded sequence with shared prefixes, and compute attention within each row.

Rows with a common prefix (chat template, system prompt, one question with several answers) form a tree. Each node is a
segment: consecutive tokens that occur once in the sequence. A row is a path of segments from a root to a leaf.

    rows S Q a1, S Q a2, S R b    ->    sequence S | Q | a1 | a2 | R b    with the tree S -> (Q -> (a1, a2), R b)

Projections and feed-forward layers run over the packed sequence. Attention gathers the queries of each segment and the
keys of its path, so a token attends to its own row only. The cost of attention grows linearly with the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# Name under which this attention implementation is registered in transformers.
ATTENTION = "relearn_rows"
# Minimum tokens of a shared prefix; a shorter one costs more as a segment than it saves.
MIN_SHARED = 4
# Maximum attention weights per layer that are computed explicitly on a CPU; above it, the fused kernel is used.
CPU_WEIGHTS = 4 << 20


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Store the token ids of a prompt and its answer; the answer is ids[answer_start:], at least one token.

    Raises ValueError if prompt or answer is empty.
    """

    id: str
    ids: tuple[int, ...]
    answer_start: int

    def __post_init__(self) -> None:
        if not 0 < self.answer_start < len(self.ids):
            raise ValueError(f"row {self.id}: answer_start {self.answer_start} of {len(self.ids)} tokens")

    @property
    def answer_ids(self) -> tuple[int, ...]:
        return self.ids[self.answer_start :]

    @property
    def answer_tokens(self) -> int:
        return len(self.ids) - self.answer_start


@dataclass(frozen=True, slots=True)
class Segment:
    """Describe a segment: tokens start..stop of row number `row`, placed in the sequence from `offset` on.

    `path`: indices in the sequence of all earlier tokens of the row. For a shared segment, `row` is its first row.
    """

    row: int
    start: int
    stop: int
    offset: int
    path: tuple[int, ...]

    @property
    def indices(self) -> range:
        return range(self.offset, self.offset + self.stop - self.start)


@dataclass(frozen=True)
class PackLayout:
    """Store the queries and keys of S segments in a sequence of T tokens.

    queries (S, Lq) and keys (S, Lk): indices into the sequence, padded with 0. restore (T,): indices that put the
    attention output (S * Lq) back in the order of the sequence. mask (S, 1, Lq, Lk): True where a query attends to a
    key; None if no segment is shared, because causal attention is the same then.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    restore: torch.Tensor
    mask: torch.Tensor | None


@runtime_checkable
class AttentionLayout(Protocol):
    """Define a layout that computes attention itself: query (1, heads, T, d) to (1, T, heads, d)."""

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor: ...


@dataclass(frozen=True)
class Packed:
    """Store a packed sequence: ids (1, T), positions (1, T) in the rows, keep (A,): indices that predict answers."""

    ids: torch.Tensor
    positions: torch.Tensor
    keep: torch.Tensor
    layout: PackLayout


def pack(rows: Sequence[TokenRow], device: torch.device | str) -> Packed:
    """Pack `rows` into one sequence with shared prefixes."""
    segments = segment_tree(rows)
    ids = [token for segment in segments for token in rows[segment.row].ids[segment.start : segment.stop]]
    positions = [position for segment in segments for position in range(segment.start, segment.stop)]
    last = {segment.row: segment for segment in segments if segment.stop == len(rows[segment.row].ids)}
    keep: list[int] = []
    for number, row in enumerate(rows):
        shift = last[number].offset - last[number].start
        keep += range(shift + row.answer_start - 1, shift + len(row.ids) - 1)
    return Packed(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        torch.tensor(keep, device=device),
        _layout(segments, device),
    )


def split_packs(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Split row numbers, in order, into packs of at most `limit` tokens; a longer row is a pack of its own."""
    packs: list[list[int]] = []
    room = 0
    for number, length in enumerate(lengths):
        if not packs or length > room:
            packs.append([])
            room = limit
        packs[-1].append(number)
        room -= length
    return packs


def segment_tree(rows: Sequence[TokenRow]) -> list[Segment]:
    """Split `rows` into segments, in the order of the sequence.

    The last segment of a row is never shared. It contains all positions that predict the row's answer.
    """
    segments: list[Segment] = []

    def add(members: list[int], start: int, path: tuple[int, ...]) -> None:
        """Add the segments of the rows `members`, whose tokens before `start` are the same."""
        for group in _groups(rows, members, start):
            first = group[0]
            stop = _common_stop(rows, group, start) if len(group) > 1 else len(rows[first].ids)
            offset = segments[-1].indices.stop if segments else 0
            segment = Segment(first, start, stop, offset, path)
            segments.append(segment)
            if len(group) > 1:
                add(group, stop, (*path, *segment.indices))

    add(list(range(len(rows))), 0, ())
    return segments


def _groups(rows: Sequence[TokenRow], members: list[int], start: int) -> list[list[int]]:
    """Group rows by their next `MIN_SHARED` tokens; a row whose prompt ends before is a group of its own."""
    groups: dict[Any, list[int]] = {}
    for number in members:
        row = rows[number]
        reach = start + MIN_SHARED
        key = row.ids[start:reach] if reach < row.answer_start else number
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def _common_stop(rows: Sequence[TokenRow], members: list[int], start: int) -> int:
    """Find the first position where rows differ, at most the last position of the shortest prompt."""
    limit = min(rows[number].answer_start for number in members) - 1
    first = rows[members[0]].ids
    for position in range(start, limit):
        if any(rows[number].ids[position] != first[position] for number in members):
            return position
    return limit


def _layout(segments: Sequence[Segment], device: torch.device | str) -> PackLayout:
    longest_query = max(len(segment.indices) for segment in segments)
    longest_key = max(len(segment.path) + len(segment.indices) for segment in segments)
    # Built on the CPU, because of many small steps, then moved at once.
    queries = torch.zeros(len(segments), longest_query, dtype=torch.long, device="cpu")
    keys = torch.zeros(len(segments), longest_key, dtype=torch.long, device="cpu")
    restore = []
    for number, segment in enumerate(segments):
        path = [*segment.path, *segment.indices]
        queries[number, : len(segment.indices)] = torch.tensor(segment.indices, device="cpu")
        keys[number, : len(path)] = torch.tensor(path, device="cpu")
        restore += range(number * longest_query, number * longest_query + len(segment.indices))
    mask = None
    if any(segment.path for segment in segments):
        path_lengths = torch.tensor([len(segment.path) for segment in segments], device="cpu")
        last_key = path_lengths[:, None] + torch.arange(longest_query, device="cpu")
        mask = (torch.arange(longest_key, device="cpu") <= last_key[:, :, None])[:, None].to(device)
    return PackLayout(queries.to(device), keys.to(device), torch.tensor(restore, device=device), mask)


def rows_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    row_layout: PackLayout | AttentionLayout | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention within rows: query (1, heads, T, d) to (1, T, heads, d).

    Follows the attention interface of transformers. `row_layout`: the segments of a pack, or a layout that computes
    attention itself (`decoding`); None gives plain SDPA.
    """
    if isinstance(row_layout, AttentionLayout):
        return row_layout.attend(module, query, key, value, scaling=scaling), None
    if row_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    queries = gather_tokens(query, row_layout.queries)
    keys, values = gather_tokens(key, row_layout.keys), gather_tokens(value, row_layout.keys)
    weights = queries.shape[:3].numel() * keys.shape[2]
    if query.device.type == "cpu" and not dropout and weights <= CPU_WEIGHTS:
        attended = _explicit_attention(queries, keys, values, mask=row_layout.mask, scaling=scaling)
    else:
        repeats = query.shape[1] // key.shape[1]
        attended = torch.nn.functional.scaled_dot_product_attention(
            queries,
            repeat_kv(keys, repeats),
            repeat_kv(values, repeats),
            attn_mask=row_layout.mask,
            dropout_p=dropout,
            scale=scaling,
            is_causal=row_layout.mask is None,
        )
    flat = attended.transpose(1, 2).flatten(0, 1)
    return flat.index_select(0, row_layout.restore)[None], None


def _explicit_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """Compute attention with explicit weights; faster than the fused kernel on a CPU, mostly in the backward pass.

    Query heads that share a key head are stacked, so that keys and values need not be repeated.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    grouped = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    weights = torch.matmul(grouped * scale, key.transpose(-1, -2)).unflatten(2, (-1, query.shape[2]))
    if mask is None:
        visible = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril_()
    else:
        visible = mask[:, None]
    probs = weights.masked_fill(~visible, float("-inf")).softmax(-1).to(value.dtype)
    return torch.matmul(probs.flatten(2, 3), value).unflatten(2, (-1, query.shape[2])).flatten(1, 2)


def gather_tokens(states: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Gather tokens of a sequence: states (1, heads, T, d) and indices (S, L) to (S, heads, L, d)."""
    picked = states[0].transpose(0, 1).index_select(0, indices.flatten())
    return picked.unflatten(0, indices.shape).transpose(1, 2)


AttentionInterface.register(ATTENTION, rows_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
