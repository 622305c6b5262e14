"""Decode many answers at once without padding, and without waiting for the longest.

Every step is one packed pass: each row brings its newest token, attention finds what the row said before in a memory of
keys and values. A row that ends makes room at once: for the next question, or for a smaller pass. Prompts that begin
alike (the chat template) are read once. Whether a model can be decoded like this is tried on it once (`can_decode`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import psutil
import torch

from relearn.engine.forward import CPU_PACK_TOKENS, GPU_PACK_TOKENS
from relearn.engine.model_support import bare, can_pack, evaluating, trial
from relearn.engine.packing import Layout, TokenRow, gather, pack, rows_attention, share
from relearn.engine.sampling import Chooser
from relearn.models.sharding import is_sharded

# Above this many rows a pass takes longer by as much as it does more.
CPU_ROWS, GPU_ROWS = 128, 256
CPU_MEMORY = 4 << 30
# So much of the room must be free before new questions are read, which costs a pass of their own.
_REFILL = 8
_DECODES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Prompt(TokenRow):
    """A row without an answer yet: answer_start is its length."""

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError(f"row {self.id}: no tokens")


@dataclass
class Memory:
    """Keys and values of `rows` rows of up to `room` tokens: per layer twice (rows, key heads, room, d)."""

    rows: int
    room: int
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def put(self, layer: int, first: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Fill rows from `first` on with the beginnings (n, key heads, tokens, d); what is behind them stays unseen."""
        if layer not in self.layers:
            shape = (self.rows, key.shape[1], self.room, key.shape[3])
            # Zeros, because an unseen value is still multiplied, by a weight of nought.
            self.layers[layer] = (key.new_zeros(shape), value.new_zeros(shape))
        for held, new in zip(self.layers[layer], (key, value), strict=True):
            held[first : first + len(new), :, : new.shape[2]] = new

    def move(self, source: int, target: int, tokens: int) -> None:
        """Row `target` becomes what row `source` is."""
        for layer in self.layers.values():
            for held in layer:
                held[target, :, :tokens] = held[source, :, :tokens]


class Reading:
    """The layout of a pass that reads prompts: packed attention, which leaves its keys and values in the memory."""

    def __init__(self, memory: Memory, layout: Layout, last: torch.Tensor, first: int):
        self._memory = memory
        self._layout = layout
        self._places = layout.keys[last]
        self._first = first

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor:
        attended, _ = rows_attention(module, query, key, value, None, scaling=scaling, row_layout=self._layout)
        self._memory.put(module.layer_idx, self._first, gather(key, self._places), gather(value, self._places))
        return attended


class Saying:
    """The layout of a pass with one token of each of the memory's first rows, which have `lengths` tokens there."""

    def __init__(self, memory: Memory, lengths: Sequence[int], device: torch.device):
        self._memory = memory
        self._longest = max(lengths) + 1
        self._rows = torch.arange(len(lengths), device=device)
        self.lengths = torch.tensor(lengths, device=device)
        self._unseen = (torch.arange(self._longest, device=device) > self.lengths[:, None])[:, None, None]

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor:
        """query (1, heads, rows, d) to (1, rows, heads, d)."""
        keys, values = self._memory.layers[module.layer_idx]
        keys[self._rows, :, self.lengths] = key[0].transpose(0, 1)
        values[self._rows, :, self.lengths] = value[0].transpose(0, 1)
        seen = (slice(len(self._rows)), slice(None), slice(self._longest))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        # Query heads that share a key head stand under each other, so that nothing is repeated.
        grouped = query[0].transpose(0, 1).unflatten(1, (keys.shape[1], -1)) * scale
        weights = torch.matmul(grouped, keys[seen].transpose(-1, -2)).masked_fill_(self._unseen, float("-inf"))
        chances = weights.softmax(-1, dtype=torch.float32).to(value.dtype)
        return torch.matmul(chances, values[seen]).flatten(1, 2)[None]


@dataclass
class _Row:
    """A question that is being answered; `length`: its tokens in the memory."""

    question: int
    length: int
    tokens: list[int]
    said: list[int] = field(default_factory=list)


class Decoder:
    """Answers `prompts` (token ids); `rows` at a time at most. The model must pass `can_decode`.

    A row ends with one of `stops`, which is left out, or after `max_new_tokens`. `finished` is told how many have.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        choose: Chooser,
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
        self._said: dict[int, list[int]] = {}

    @torch.inference_mode()
    def answers(self) -> list[list[int]]:
        """The tokens of every answer, in the order of the prompts."""
        with evaluating(self._model):
            for group in groups([len(prompt) for prompt in self._prompts], self._limit):
                self._answer(group)
        return [self._said[question] for question in range(len(self._prompts))]

    def _answer(self, waiting: list[int]) -> None:
        room = max(len(self._prompts[question]) for question in waiting) + self._limit
        most = min(len(waiting), rows_at_once(self._model, room, self._rows))
        memory = Memory(most, room)
        while waiting or self._active:
            free = most - len(self._active)
            if waiting and free * _REFILL >= most:
                new, waiting = waiting[:free], waiting[free:]
                for part in self._parts(new):
                    self._read(memory, part)
            else:
                self._say(memory)
            self._drop_finished(memory)

    def _parts(self, questions: Sequence[int]) -> list[list[int]]:
        """As many as are read in one pass."""
        limit = CPU_PACK_TOKENS if self._device.type == "cpu" else GPU_PACK_TOKENS
        parts: list[list[int]] = [[]]
        for question in questions:
            if parts[-1] and sum(len(self._prompts[other]) for other in (*parts[-1], question)) > limit:
                parts.append([])
            parts[-1].append(question)
        return parts

    def _read(self, memory: Memory, questions: Sequence[int]) -> None:
        rows = [_Row(question, len(self._prompts[question]), list(self._prompts[question])) for question in questions]
        logits = read(self._model, memory, [row.tokens for row in rows], len(self._active), self._device)
        self._active += rows
        self._add(rows, logits)

    def _say(self, memory: Memory) -> None:
        lengths = [row.length for row in self._active]
        logits = say(self._model, memory, [row.tokens[-1] for row in self._active], lengths, self._device)
        for row in self._active:
            row.length += 1
        self._add(self._active, logits)

    def _add(self, rows: Sequence[_Row], logits: torch.Tensor) -> None:
        chosen = self._choose(logits.float(), [row.question for row in rows], [row.tokens for row in rows])
        for row, token in zip(rows, chosen.tolist(), strict=True):
            row.said.append(token)
            row.tokens.append(token)

    def _drop_finished(self, memory: Memory) -> None:
        """The rows that go on close up, so that they stay the first ones of the memory."""
        before = len(self._active)
        for place in reversed(range(before)):
            row = self._active[place]
            ended = row.said[-1] in self._stops
            if not ended and len(row.said) < self._limit:
                continue
            self._said[row.question] = row.said[:-1] if ended else row.said
            last = self._active.pop()
            if last is not row:
                memory.move(len(self._active), place, last.length)
                self._active[place] = last
        if before > len(self._active):
            self._finished(before - len(self._active))


def groups(lengths: Sequence[int], new_tokens: int) -> list[list[int]]:
    """The numbers of the prompts by rising length, so that in a group no row needs twice the room of another."""
    found: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not found or lengths[number] + new_tokens > 2 * (lengths[found[-1][0]] + new_tokens):
            found.append([])
        found[-1].append(number)
    return found


def rows_at_once(model: Any, room: int, limit: int | None = None) -> int:
    """How many rows of `room` tokens the machine's memory and speed are good for; at most `limit`."""
    config = bare(model).config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    weight = next(model.parameters())
    # Quantised weights take less than what is reckoned with them.
    row = 2 * config.num_hidden_layers * heads * width * max(2, weight.element_size()) * room
    useful = CPU_ROWS if weight.device.type == "cpu" else GPU_ROWS
    return max(1, min(useful, _memory(model, weight.device) // row, limit or useful))


def _memory(model: Any, device: torch.device) -> int:
    """Bytes: of what the machine has in all, not of what is free, so that a resumed run batches as the first did."""
    if device.type == "cuda":
        weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        return (torch.cuda.get_device_properties(device).total_memory - weights) // 4
    return min(CPU_MEMORY, psutil.virtual_memory().total // 4)


def read(
    model: Any, memory: Memory, prompts: Sequence[Sequence[int]], first: int, device: torch.device
) -> torch.Tensor:
    """Read prompts into the rows of the memory from `first` on; the logits (n, V) of what comes after each."""
    rows = [Prompt(str(number), tuple(prompt), len(prompt)) for number, prompt in enumerate(prompts)]
    packed = pack(rows, device)
    ends = {
        segment.row: (number, segment.places.stop - 1)
        for number, segment in enumerate(share(rows))
        if segment.stop == len(rows[segment.row].ids)
    }
    last, keep = torch.tensor([ends[number] for number in range(len(rows))], device=device).unbind(1)
    return _logits(model, packed.ids, packed.positions, keep, Reading(memory, packed.layout, last, first))


def say(
    model: Any, memory: Memory, tokens: Sequence[int], lengths: Sequence[int], device: torch.device
) -> torch.Tensor:
    """One more token for each of the memory's first rows; the logits (n, V) of what comes after it."""
    layout = Saying(memory, lengths, device)
    ids = torch.tensor([tokens], device=device)
    return _logits(model, ids, layout.lengths[None], torch.arange(len(tokens), device=device), layout)


def _logits(
    model: Any, ids: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor, layout: Reading | Saying
) -> torch.Tensor:
    # Given a mask of four dimensions transformers builds none; the layout says what a token sees.
    unused = torch.zeros(1, 1, 1, 1, device=ids.device)
    output = model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=unused,
        use_cache=False,
        logits_to_keep=keep,
        row_layout=layout,
    )
    return output.logits[0]


def can_decode(model: Any, longest: int = 0) -> bool:
    """Whether the model says token by token what it says at once, up to `longest` tokens: tried once, on two rows."""
    if getattr(bare(model), "takes_rows", False) or is_sharded(model) or not can_pack(model, longest):
        return False
    inner = bare(model)
    if inner not in _DECODES:
        _DECODES[inner] = _says_the_same(model)
    return _DECODES[inner]


@torch.inference_mode()
def _says_the_same(model: Any) -> bool:
    device = next(model.parameters()).device
    try:
        with evaluating(model):
            tried = trial(model)
            rows = tried.rows
            memory = Memory(len(rows), max(len(row.ids) for row in rows))
            steps = [read(model, memory, [row.ids[: row.answer_start] for row in rows], 0, device)]
            for ahead in range(rows[0].answer_tokens - 1):
                tokens = [row.answer_ids[ahead] for row in rows]
                lengths = [row.answer_start + ahead for row in rows]
                steps.append(say(model, memory, tokens, lengths, device))
    except (AttributeError, TypeError, ValueError, IndexError, KeyError):
        return False
    return tried.agrees(torch.stack(steps, 1).flatten(0, 1))
