"""Decode answers to many prompts with one KV cache and continuous batching, without padding.

Each decode step computes the newest token of every row. A token attends to the keys and values of its own row in the
cache. When a row ends, its cache slot is used for the next prompt; without a next prompt, the batch gets smaller. The
prefill computes common prefixes of prompts (the chat template) once. `can_decode` tests once per model whether it gives
correct logits with this cache.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import psutil
import torch

from relearn.core.distributed import is_sharded
from relearn.engine.forward import pack_tokens
from relearn.engine.model_support import bare, can_pack, evaluating, layout_logits, support_check
from relearn.engine.packing import PackLayout, TokenRow, gather_tokens, pack, rows_attention, segment_tree, split_packs
from relearn.engine.sampling import TokenChooser

# Maximum rows per decode step. With more rows, the time of a step grows in proportion to the rows.
CPU_ROWS, GPU_ROWS = 128, 256
CPU_CACHE_BYTES = 4 << 30
# A prefill starts when at least one in `_REFILL` slots is free, because each prefill is a separate forward pass.
_REFILL = 8
_DECODES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class PromptTokens(TokenRow):
    """Store the token ids of a prompt without an answer; `answer_start` is the length of the prompt."""

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError(f"row {self.id}: no tokens")


@dataclass
class KVCache:
    """Store keys and values of `rows` rows of at most `room` tokens: two tensors (rows, key heads, room, d) a layer."""

    rows: int
    room: int
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def put(self, layer: int, key: torch.Tensor, value: torch.Tensor, *, first: int) -> None:
        """Write the keys and values (n, key heads, tokens, d) of n prompts into the slots from `first` on."""
        if layer not in self.layers:
            shape = (self.rows, key.shape[1], self.room, key.shape[3])
            # Initialise with zeros: masked values are multiplied by zero, and a NaN would remain NaN.
            self.layers[layer] = (key.new_zeros(shape), value.new_zeros(shape))
        for cached, new in zip(self.layers[layer], (key, value), strict=True):
            cached[first : first + len(new), :, : new.shape[2]] = new

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` tokens of slot `source` to slot `target`."""
        for layer in self.layers.values():
            for cached in layer:
                cached[target, :, :tokens] = cached[source, :, :tokens]


class _PrefillLayout:
    """Compute packed attention over prompts and write their keys and values into the cache."""

    def __init__(self, cache: KVCache, layout: PackLayout, *, last_segments: torch.Tensor, first: int):
        self._cache = cache
        self._layout = layout
        self._indices = layout.keys[last_segments]
        self._first = first

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor:
        attended, _ = rows_attention(module, query, key, value, None, scaling=scaling, row_layout=self._layout)
        keys, values = gather_tokens(key, self._indices), gather_tokens(value, self._indices)
        self._cache.put(module.layer_idx, keys, values, first=self._first)
        return attended


class _StepLayout:
    """Compute attention of one new token per row, for the first rows of the cache, which contain `lengths` tokens."""

    def __init__(self, cache: KVCache, lengths: Sequence[int], device: torch.device):
        self._cache = cache
        self._longest = max(lengths) + 1
        self._rows = torch.arange(len(lengths), device=device)
        self.lengths = torch.tensor(lengths, device=device)
        self._masked = (torch.arange(self._longest, device=device) > self.lengths[:, None])[:, None, None]

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor:
        """Add the new tokens to the cache and compute attention: query (1, heads, rows, d) to (1, rows, heads, d)."""
        keys, values = self._cache.layers[module.layer_idx]
        keys[self._rows, :, self.lengths] = key[0].transpose(0, 1)
        values[self._rows, :, self.lengths] = value[0].transpose(0, 1)
        used = (slice(len(self._rows)), slice(None), slice(self._longest))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        # Stack the query heads that share a key head, so that keys and values need not be repeated.
        grouped = query[0].transpose(0, 1).unflatten(1, (keys.shape[1], -1)) * scale
        weights = torch.matmul(grouped, keys[used].transpose(-1, -2)).masked_fill_(self._masked, float("-inf"))
        probs = weights.softmax(-1, dtype=torch.float32).to(value.dtype)
        return torch.matmul(probs, values[used]).flatten(1, 2)[None]


@dataclass
class _Row:
    """Store the state of a row: number of its prompt, tokens in the cache, all its tokens, tokens of its answer."""

    prompt: int
    length: int
    tokens: list[int]
    answer: list[int] = field(default_factory=list)


class Decoder:
    """Decode an answer to each of `prompts` (token ids), at most `rows` at a time. The model must pass `can_decode`.

    A row ends at a token of `stops`, which is not part of the answer, or after `max_new_tokens`. `finished` is called
    with the number of rows that ended since the last call.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        choose: TokenChooser,
        *,
        stops: Collection[int],
        max_new_tokens: int,
        rows: int | None = None,
        finished: Callable[[int], None] = lambda _: None,
    ):
        self._model = model
        self._device = next(model.parameters()).device
        self._prompts = prompts
        self._choose = choose
        self._stops = frozenset(stops)
        self._limit = max_new_tokens
        self._rows = rows
        self._finished = finished
        self._active: list[_Row] = []
        self._answers: dict[int, list[int]] = {}

    @torch.inference_mode()
    def answers(self) -> list[list[int]]:
        """Return the tokens of every answer, in the order of the prompts."""
        with evaluating(self._model):
            for group in groups([len(prompt) for prompt in self._prompts], self._limit):
                self._decode_group(group)
        return [self._answers[number] for number in range(len(self._prompts))]

    def _decode_group(self, waiting: list[int]) -> None:
        room = max(len(self._prompts[number]) for number in waiting) + self._limit
        slots = min(len(waiting), rows_at_once(self._model, room, self._rows))
        cache = KVCache(slots, room)
        while waiting or self._active:
            free = slots - len(self._active)
            if waiting and free * _REFILL >= slots:
                new, waiting = waiting[:free], waiting[free:]
                lengths = [len(self._prompts[number]) for number in new]
                for part in split_packs(lengths, pack_tokens(self._device)):
                    self._prefill(cache, [new[at] for at in part])
            else:
                self._step(cache)
            self._drop_finished(cache)

    def _prefill(self, cache: KVCache, numbers: Sequence[int]) -> None:
        rows = [_Row(number, len(self._prompts[number]), list(self._prompts[number])) for number in numbers]
        logits = prefill(self._model, cache, [row.tokens for row in rows], first=len(self._active))
        self._active += rows
        self._append(rows, logits)

    def _step(self, cache: KVCache) -> None:
        tokens, lengths = [row.tokens[-1] for row in self._active], [row.length for row in self._active]
        logits = decode_step(self._model, cache, tokens, lengths=lengths)
        for row in self._active:
            row.length += 1
        self._append(self._active, logits)

    def _append(self, rows: Sequence[_Row], logits: torch.Tensor) -> None:
        """Choose the next token of each row."""
        chosen = self._choose(logits.float(), [row.prompt for row in rows], [row.tokens for row in rows])
        for row, token in zip(rows, chosen.tolist(), strict=True):
            row.answer.append(token)
            row.tokens.append(token)

    def _drop_finished(self, cache: KVCache) -> None:
        """Remove rows that have ended; move the last active row into the free slot, so that slots stay contiguous."""
        before = len(self._active)
        for slot in reversed(range(before)):
            row = self._active[slot]
            ended = row.answer[-1] in self._stops
            if not ended and len(row.answer) < self._limit:
                continue
            self._answers[row.prompt] = row.answer[:-1] if ended else row.answer
            last = self._active.pop()
            if last is not row:
                cache.move(len(self._active), slot, last.length)
                self._active[slot] = last
        if before > len(self._active):
            self._finished(before - len(self._active))


def groups(lengths: Sequence[int], new_tokens: int) -> list[list[int]]:
    """Group prompt numbers by length, ascending; a row needs at most twice the cache size of another in its group."""
    grouped: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not grouped or lengths[number] + new_tokens > 2 * (lengths[grouped[-1][0]] + new_tokens):
            grouped.append([])
        grouped[-1].append(number)
    return grouped


def rows_at_once(model: Any, room: int, limit: int | None = None) -> int:
    """Compute the number of rows of `room` tokens for a decode step, from the cache memory; at most `limit`."""
    config = bare(model).config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    weight = next(model.parameters())
    # A quantised weight may have elements of one byte; keys and values have at least two.
    row_bytes = 2 * config.num_hidden_layers * heads * width * max(2, weight.element_size()) * room
    useful = CPU_ROWS if weight.device.type == "cpu" else GPU_ROWS
    return max(1, min(useful, _cache_bytes(model, weight.device) // row_bytes, limit or useful))


def _cache_bytes(model: Any, device: torch.device) -> int:
    """Compute the cache size in bytes from total, not free, memory, so that a resumed run uses the same batches."""
    if device.type == "cuda":
        weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        return (torch.cuda.get_device_properties(device).total_memory - weights) // 4
    return min(CPU_CACHE_BYTES, psutil.virtual_memory().total // 4)


def prefill(model: Any, cache: KVCache, prompts: Sequence[Sequence[int]], *, first: int = 0) -> torch.Tensor:
    """Compute the keys and values of n prompts into cache slots from `first` on; return the next logits (n, V)."""
    device = next(model.parameters()).device
    rows = [PromptTokens(str(number), tuple(prompt), len(prompt)) for number, prompt in enumerate(prompts)]
    packed = pack(rows, device)
    ends = {
        segment.row: (number, segment.indices.stop - 1)
        for number, segment in enumerate(segment_tree(rows))
        if segment.stop == len(rows[segment.row].ids)
    }
    last, keep = torch.tensor([ends[number] for number in range(len(rows))], device=device).unbind(1)
    layout = _PrefillLayout(cache, packed.layout, last_segments=last, first=first)
    return layout_logits(model, layout, ids=packed.ids, positions=packed.positions, keep=keep)


def decode_step(model: Any, cache: KVCache, tokens: Sequence[int], *, lengths: Sequence[int]) -> torch.Tensor:
    """Add one token to each of the first n rows of the cache, of `lengths` tokens; return the next logits (n, V)."""
    device = next(model.parameters()).device
    layout = _StepLayout(cache, lengths, device)
    ids, keep = torch.tensor([tokens], device=device), torch.arange(len(tokens), device=device)
    return layout_logits(model, layout, ids=ids, positions=layout.lengths[None], keep=keep)


def can_decode(model: Any, longest: int = 0) -> bool:
    """Test once per model, on two rows, whether decoding with the KV cache gives the logits of a plain forward pass.

    Return False also if rows of `longest` tokens cannot be packed, for sharded models and for models that take rows.
    """
    if getattr(bare(model), "takes_rows", False) or is_sharded(model) or not can_pack(model, longest):
        return False
    inner = bare(model)
    if inner not in _DECODES:
        _DECODES[inner] = _decodes_alike(model)
    return _DECODES[inner]


@torch.inference_mode()
def _decodes_alike(model: Any) -> bool:
    try:
        with evaluating(model):
            check = support_check(model)
            rows = check.rows
            cache = KVCache(len(rows), max(len(row.ids) for row in rows))
            steps = [prefill(model, cache, [row.ids[: row.answer_start] for row in rows])]
            for ahead in range(rows[0].answer_tokens - 1):
                tokens = [row.answer_ids[ahead] for row in rows]
                lengths = [row.answer_start + ahead for row in rows]
                steps.append(decode_step(model, cache, tokens, lengths=lengths))
    except (AttributeError, TypeError, ValueError, IndexError, KeyError):
        return False
    return check.agrees(torch.stack(steps, 1).flatten(0, 1))
