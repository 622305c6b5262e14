"""The floor: the arithmetic of the step and nothing else, with plain transformers, PEFT and torch.

Forward and backward of forget and retain rows, adapter-off forward of retain rows, the output layer at answer tokens
only, beginnings that all rows share once. No loss: the mean of the logits stands for it. None of relearn's own engine
is used. There are several ways to do this arithmetic; `fastest` tries them on the rows at hand and takes the best.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from workload import Computed, Losses, Rows, Step, answer_tokens, common_beginning

from relearn.engine.forward import TokenRow
from relearn.models.lora import ready_for_autocast

ATTENTION = "benchmark_floor"
NO_LIMIT = 1 << 30


@dataclass(frozen=True)
class Pack:
    """Rows in one sequence behind the beginning they share: `shared` tokens, then start and stop of each row's own."""

    ids: torch.Tensor
    positions: torch.Tensor
    keep: torch.Tensor
    mask: torch.Tensor
    shared: int
    spans: tuple[tuple[int, int], ...]


@dataclass
class Floor(Step):
    """`attention`: "rows" calls SDPA once for every row, "mask" once for the sequence with a mask.

    `sharing`: a common beginning is computed once. `fused`: the adapter's layers as one autograd function that adds in
    place, in the stead of PEFT's. `limit`: most tokens of one sequence.
    """

    model: Any
    attention: Literal["rows", "mask"] = "rows"
    sharing: bool = True
    fused: bool = False
    limit: int = NO_LIMIT
    name: str = "floor"
    _packs: dict[tuple[TokenRow, ...], list[Pack]] = field(default_factory=dict, repr=False)

    def prepare(self, rows: Rows) -> None:
        """The layout is no arithmetic, so it is made beforehand."""
        for part in (rows.all, rows.retain):
            if part not in self._packs:
                self._packs[part] = list(self._lay_out(part))

    def __call__(self, rows: Rows) -> Losses:
        with torch.no_grad(), self.model.disable_adapter():
            for pack in self._packs[rows.retain]:
                self._logits(pack)
        for pack in self._packs[rows.all]:
            self._logits(pack).mean().backward()
        return {}

    def answers(self, rows: tuple[TokenRow, ...]) -> torch.Tensor:
        """Logits of all answer tokens, in the order of `rows`, for the check."""
        with self.around():
            logits = torch.cat([self._logits(pack) for pack in self._lay_out(rows)]).float()
        ordered = self._ordered(rows)
        pieces = dict(
            zip([row.id for row in ordered], logits.split([row.answer_tokens for row in ordered]), strict=True)
        )
        return torch.cat([pieces[row.id] for row in rows])

    def computed(self, rows: Rows) -> Computed:
        trained, reference = (sum(pack.ids.numel() for pack in self._lay_out(part)) for part in (rows.all, rows.retain))
        return Computed(trained, reference, answer_tokens(rows.all), answer_tokens(rows.retain))

    @property
    def settings(self) -> dict[str, Any]:
        limit = None if self.limit == NO_LIMIT else self.limit
        return {"attention": self.attention, "sharing": self.sharing, "fused": self.fused, "limit": limit}

    def _ordered(self, rows: Sequence[TokenRow]) -> list[TokenRow]:
        """In several sequences rows of like length stand together; in one the order is of no matter."""
        return sorted(rows, key=lambda row: len(row.ids)) if self.limit < NO_LIMIT else list(rows)

    def _lay_out(self, rows: Sequence[TokenRow]) -> Iterator[Pack]:
        device = next(self.model.parameters()).device
        part: list[TokenRow] = []
        for row in self._ordered(rows):
            if part and sum(len(other.ids) for other in (*part, row)) > self.limit:
                yield self._pack(part, device)
                part = []
            part.append(row)
        yield self._pack(part, device)

    def _pack(self, rows: Sequence[TokenRow], device: torch.device) -> Pack:
        shared = common_beginning(rows) if self.sharing and len(rows) > 1 else 0
        ids = list(rows[0].ids[:shared])
        positions, owner, keep, spans = list(range(shared)), [-1] * shared, [], []
        for number, row in enumerate(rows):
            shift = len(ids) - shared
            spans.append((len(ids), shift + len(row.ids)))
            keep += range(shift + row.answer_start - 1, shift + len(row.ids) - 1)
            ids += row.ids[shared:]
            positions += range(shared, len(row.ids))
            owner += [number] * (len(row.ids) - shared)
        own, place = torch.tensor(owner), torch.arange(len(ids))
        mask = ((own[:, None] == own) | (own == -1)) & (place[:, None] >= place)
        return Pack(
            torch.tensor([ids], device=device),
            torch.tensor([positions], device=device),
            torch.tensor(keep, device=device),
            mask[None, None].to(device),
            shared,
            tuple(spans),
        )

    def _logits(self, pack: Pack) -> torch.Tensor:
        return self.model(
            input_ids=pack.ids,
            position_ids=pack.positions,
            attention_mask=pack.mask,
            use_cache=False,
            logits_to_keep=pack.keep,
            **({"floor_pack": pack} if self.attention == "rows" else {}),
        ).logits[0]

    @contextmanager
    def around(self) -> Iterator[None]:
        """The attention and the adapter's layers of this candidate, as long as it runs."""
        inner = self.model.get_base_model()
        before = inner.config._attn_implementation
        inner.set_attn_implementation(ATTENTION if self.attention == "rows" else "sdpa")
        undo = _fuse(self.model) if self.fused else []
        try:
            yield
        finally:
            for layer, forward in undo:
                del layer.forward
                if forward is not None:
                    layer.forward = forward
            inner.set_attn_implementation(before)


class MixedFloor(Floor):
    """In bfloat16, the output layer too; the adapter's layers are PEFT's."""

    def __call__(self, rows: Rows) -> Losses:
        with torch.autocast(next(self.model.parameters()).device.type, torch.bfloat16):
            return super().__call__(rows)

    @contextmanager
    def around(self) -> Iterator[None]:
        ready_for_autocast(self.model)
        try:
            with super().around():
                yield
        finally:
            ready_for_autocast(self.model, False)


def candidates(model: Any, rows: Rows) -> list[Floor]:
    """Ways to do the arithmetic that are worth a try for these rows."""
    first = Floor(model)
    found = [first, replace(first, sharing=False, _packs={}), replace(first, attention="mask", _packs={})]
    if rows.tokens > 768:
        found += [replace(first, limit=limit, _packs={}) for limit in (512, 1024) if limit < rows.tokens]
    return found


def fastest(
    model: Any, rows: Rows, repeats: int, clock: Callable[[Callable[[], Any]], float], *, mixed: bool = False
) -> tuple[Floor, list[dict[str, Any]]]:
    """The fastest candidate, and what each took: all with PEFT's layers, then the best of them with fused ones."""
    tried = candidates(model, rows)
    if mixed:
        tried = [MixedFloor(model, floor.attention, floor.sharing, False, floor.limit) for floor in tried]
    seconds = _try(tried, rows, repeats, clock)
    if can_fuse(model) and not mixed:
        tried.append(replace(tried[seconds.index(min(seconds))], fused=True, _packs={}))
        seconds += _try(tried[-1:], rows, repeats, clock)
    return tried[seconds.index(min(seconds))], _table(tried, seconds)


def _try(tried: list[Floor], rows: Rows, repeats: int, clock: Callable[[Callable[[], Any]], float]) -> list[float]:
    seconds: list[list[float]] = [[] for _ in tried]
    for _ in range(repeats):
        for candidate, own in zip(tried, seconds, strict=True):
            candidate.prepare(rows)
            with candidate.around():
                own.append(clock(lambda candidate=candidate: candidate(rows)))
    return [min(own) for own in seconds]


def _table(tried: list[Floor], seconds: list[float]) -> list[dict[str, Any]]:
    return [{**floor.settings, "seconds": taken} for floor, taken in zip(tried, seconds, strict=True)]


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    floor_pack: Pack | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA for the shared beginning and for each row behind it."""
    assert floor_pack is not None
    shared, pieces = floor_pack.shared, []
    if shared:
        start = slice(0, shared)
        pieces.append(_sdpa(query[:, :, start], key[:, :, start], value[:, :, start], scaling, None))
    for start, stop in floor_pack.spans:
        own = slice(start, stop)
        if not shared:
            pieces.append(_sdpa(query[:, :, own], key[:, :, own], value[:, :, own], scaling, None))
            continue
        keys, values = (torch.cat([part[:, :, :shared], part[:, :, own]], 2) for part in (key, value))
        seen = floor_pack.mask[:, :, own]
        mask = torch.cat([seen[..., :shared], seen[..., own]], -1)
        pieces.append(_sdpa(query[:, :, own], keys, values, scaling, mask))
    return torch.cat(pieces, 2).transpose(1, 2).contiguous(), None


def _sdpa(query: Any, key: Any, value: Any, scaling: float | None, mask: torch.Tensor | None) -> torch.Tensor:
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class _Adapted(torch.autograd.Function):
    """x W' + s (x A') B' with as few passes over memory as there can be; W is frozen."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float):
        flat = x.reshape(-1, x.shape[-1])
        narrow = flat @ down.t()
        result = (flat @ weight.t()).addmm_(narrow, up.t(), alpha=scale)
        ctx.save_for_backward(flat, narrow, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor):
        flat, narrow, weight, down, up = ctx.saved_tensors
        slope = slopes[0].reshape(-1, slopes[0].shape[-1])
        slope_narrow = (slope @ up).mul_(ctx.scale)
        slope_up = (slope.t() @ narrow).mul_(ctx.scale)
        slope_x = (slope @ weight).addmm_(slope_narrow, down).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return slope_x, None, slope_narrow.t() @ flat, slope_up, None


def _adapted(layer: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    weight = layer.base_layer.weight
    if layer.disable_adapters:
        return torch.nn.functional.linear(x, weight)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return _Adapted.apply(x, weight, down, up, layer.scaling["default"])  # pyright: ignore[reportReturnType]


def _adapter_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")]


def can_fuse(model: Any) -> bool:
    """Linear layers without bias, in one precision."""
    return all(
        type(layer.base_layer) is torch.nn.Linear
        and layer.base_layer.bias is None
        and layer.lora_A["default"].weight.dtype == layer.base_layer.weight.dtype
        for layer in _adapter_layers(model)
    )


def _fuse(model: Any) -> list[tuple[Any, Any]]:
    """Give the adapter's layers the fused forward; returns them with the forward of their own they had, if any."""
    undo = []
    for layer in _adapter_layers(model):
        undo.append((layer, vars(layer).get("forward")))
        layer.forward = types.MethodType(_adapted, layer)
    return undo
