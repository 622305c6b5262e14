"""Rows of tokens in one unpadded sequence, where what rows have in common is computed once.

Rows that begin alike (a chat template, a system prompt, one question with several answers) form a tree: a shared
beginning is one segment of the sequence, and the rows go on from it. Every token sees its own row, no other.
Projections and feed-forward layers run over the sequence as it is; attention alone gathers, for every segment, its
queries and the keys of its path, so its cost grows with the rows and not with the square of the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "relearn_rows"
# A beginning shared by fewer tokens than this is not worth a segment of its own.
MIN_SHARED = 4
# Attention weights of one layer that are written out on a CPU; longer rows go through the fused kernel.
CPU_WEIGHTS = 4 << 20


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Token ids of prompt and answer; the answer's tokens are ids[answer_start:] and there is at least one."""

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
    """Tokens start..stop of some row, placed once in the sequence; `path` are the places of all tokens before them."""

    row: int
    start: int
    stop: int
    at: int
    path: tuple[int, ...]

    @property
    def places(self) -> range:
        return range(self.at, self.at + self.stop - self.start)


@dataclass(frozen=True)
class Layout:
    """How attention finds its rows in the sequence of T tokens, for S segments.

    queries (S, Lq) and keys (S, Lk) are places in the sequence, padded with 0; `back` (T,) takes the attention output
    (S * Lq) back to the sequence; mask (S, 1, Lq, Lk) says which key a query sees, None when no segment is shared.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    back: torch.Tensor
    mask: torch.Tensor | None


@runtime_checkable
class Attending(Protocol):
    """A layout with an attention of its own: as `rows_attention`, one tensor out."""

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor: ...


@dataclass(frozen=True)
class Packed:
    """The sequence: ids (1, T), positions (1, T), keep (A,) the places that predict the answer tokens, row by row."""

    ids: torch.Tensor
    positions: torch.Tensor
    keep: torch.Tensor
    layout: Layout


def pack(rows: Sequence[TokenRow], device: torch.device | str) -> Packed:
    """Lay out `rows` as one sequence with shared beginnings."""
    segments = share(rows)
    ids = [token for segment in segments for token in rows[segment.row].ids[segment.start : segment.stop]]
    positions = [place for segment in segments for place in range(segment.start, segment.stop)]
    own = {segment.row: segment for segment in segments if segment.stop == len(rows[segment.row].ids)}
    keep: list[int] = []
    for number, row in enumerate(rows):
        shift = own[number].at - own[number].start
        keep += range(shift + row.answer_start - 1, shift + len(row.ids) - 1)
    return Packed(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        torch.tensor(keep, device=device),
        _layout(segments, device),
    )


def share(rows: Sequence[TokenRow]) -> list[Segment]:
    """The tree of `rows` as segments in the order of the sequence; a row's last segment holds all it predicts from."""
    segments: list[Segment] = []
    _grow(rows, list(range(len(rows))), 0, (), segments)
    return segments


def packed_tokens(rows: Sequence[TokenRow]) -> int:
    """Tokens that are computed when `rows` are packed together."""
    return sum(segment.stop - segment.start for segment in share(rows))


def _grow(
    rows: Sequence[TokenRow], members: list[int], start: int, path: tuple[int, ...], segments: list[Segment]
) -> None:
    """Add segments for `members`, which have the tokens before `start` in common."""
    for together in _alike(rows, members, start):
        first = together[0]
        stop = _common(rows, together, start) if len(together) > 1 else len(rows[first].ids)
        at = segments[-1].places.stop if segments else 0
        segment = Segment(first, start, stop, at, path)
        segments.append(segment)
        if len(together) > 1:
            _grow(rows, together, stop, (*path, *segment.places), segments)


def _alike(rows: Sequence[TokenRow], members: list[int], start: int) -> list[list[int]]:
    """Members grouped by their next tokens, in order; one that has too few tokens to share stays alone."""
    groups: dict[Any, list[int]] = {}
    for number in members:
        row = rows[number]
        reach = start + MIN_SHARED
        key = row.ids[start:reach] if reach < row.answer_start else number
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def _common(rows: Sequence[TokenRow], members: list[int], start: int) -> int:
    """Up to where members agree; the token that predicts the first answer token is left to each row."""
    limit = min(rows[number].answer_start for number in members) - 1
    first = rows[members[0]].ids
    for place in range(start, limit):
        if any(rows[number].ids[place] != first[place] for number in members):
            return place
    return limit


def _layout(segments: Sequence[Segment], device: torch.device | str) -> Layout:
    longest_query = max(len(segment.places) for segment in segments)
    longest_key = max(len(segment.path) + len(segment.places) for segment in segments)
    # Made on the CPU, where there are many small steps, and moved as a whole.
    queries = torch.zeros(len(segments), longest_query, dtype=torch.long, device="cpu")
    keys = torch.zeros(len(segments), longest_key, dtype=torch.long, device="cpu")
    back = []
    for number, segment in enumerate(segments):
        path = [*segment.path, *segment.places]
        queries[number, : len(segment.places)] = torch.tensor(segment.places, device="cpu")
        keys[number, : len(path)] = torch.tensor(path, device="cpu")
        back += range(number * longest_query, number * longest_query + len(segment.places))
    shared = torch.tensor([len(segment.path) for segment in segments], device="cpu")
    mask = None
    if any(segment.path for segment in segments):
        seen = shared[:, None] + torch.arange(longest_query, device="cpu")
        mask = (torch.arange(longest_key, device="cpu") <= seen[:, :, None])[:, None].to(device)
    return Layout(queries.to(device), keys.to(device), torch.tensor(back, device=device), mask)


def rows_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    row_layout: Layout | Attending | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: query (1, heads, T, d) to (1, T, heads, d). Without a layout plain SDPA.

    A layout that attends itself (`decoding`) is left to it.
    """
    if isinstance(row_layout, Attending):
        return row_layout.attend(module, query, key, value, scaling=scaling), None
    if row_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    own_query = gather(query, row_layout.queries)
    own_key, own_value = gather(key, row_layout.keys), gather(value, row_layout.keys)
    weights = own_query.shape[:3].numel() * own_key.shape[2]
    if query.device.type == "cpu" and not dropout and weights <= CPU_WEIGHTS:
        attended = _attend(own_query, own_key, own_value, row_layout, scaling)
    else:
        repeats = query.shape[1] // key.shape[1]
        attended = torch.nn.functional.scaled_dot_product_attention(
            own_query,
            repeat_kv(own_key, repeats),
            repeat_kv(own_value, repeats),
            attn_mask=row_layout.mask,
            dropout_p=dropout,
            scale=scaling,
            is_causal=row_layout.mask is None,
        )
    flat = attended.transpose(1, 2).flatten(0, 1)
    return flat.index_select(0, row_layout.back)[None], None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scaling: float | None
) -> torch.Tensor:
    """Attention with its weights written out: on a CPU faster than the fused kernel, above all backwards.

    Query heads that share a key head are laid under each other, so keys and values are never repeated.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    grouped = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    weights = torch.matmul(grouped * scale, key.transpose(-1, -2)).unflatten(2, (-1, query.shape[2]))
    seen = layout.mask[:, None] if layout.mask is not None else _causal(query.shape[2], key.shape[2], query.device)
    chances = weights.masked_fill(~seen, float("-inf")).softmax(-1).to(value.dtype)
    return torch.matmul(chances.flatten(2, 3), value).unflatten(2, (-1, query.shape[2])).flatten(1, 2)


def _causal(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril_()


def gather(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(1, heads, T, d) and places (S, L) -> (S, heads, L, d)."""
    picked = states[0].transpose(0, 1).index_select(0, places.flatten())
    return picked.unflatten(0, places.shape).transpose(1, 2)


AttentionInterface.register(ATTENTION, rows_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
