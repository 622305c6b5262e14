"""Run a model over rows of tokens without computing a padding token or an unneeded output row.

The rows of a call are packed into one sequence whose position ids restart at every row; transformers then builds the
block-diagonal mask itself, but only without an attention mask and without a cache. The output layer is applied at
answer positions alone (`logits_to_keep`). Models that cannot be packed get right-padded batches behind the same result.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Attention cost grows with the square of a pack; above this, length-grouped packs win on a CPU.
CPU_PACK_TOKENS = 512
GPU_PACK_TOKENS = 16384


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


def answer_logits(model: Any, rows: Sequence[TokenRow]) -> torch.Tensor:
    """Logits that predict every answer token, row after row, already shifted: (tokens, vocab), float32."""
    device = next(model.parameters()).device
    packs = list(_packs(rows, CPU_PACK_TOKENS if device.type == "cpu" else GPU_PACK_TOKENS))
    forward = _packed_logits if can_pack(model) else _padded_logits
    parts = [forward(model, pack, device) for pack in packs]
    return torch.cat(parts).float() if len(parts) > 1 else parts[0].float()


def answer_targets(rows: Sequence[TokenRow], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """The answer tokens themselves and the row each belongs to: (tokens,) and (tokens,)."""
    targets = torch.tensor([token for row in rows for token in row.answer_ids], device=device)
    owner = torch.tensor([number for number, row in enumerate(rows) for _ in row.answer_ids], device=device)
    return targets, owner


def can_pack(model: Any) -> bool:
    """Whether the model separates packed rows: attention by transformers' own masks, position ids, logits_to_keep."""
    inner = getattr(model, "get_base_model", lambda: model)()
    parameters = inspect.signature(inner.forward).parameters
    kind = inner.config._attn_implementation
    recurrent = any(hasattr(inner.config, name) for name in ("ssm_cfg", "mamba_d_state", "state_size"))
    return {"position_ids", "logits_to_keep"} <= set(parameters) and kind in ("sdpa", "eager") and not recurrent


def _packs(rows: Sequence[TokenRow], limit: int) -> Iterator[list[TokenRow]]:
    pack: list[TokenRow] = []
    size = 0
    for row in rows:
        if pack and size + len(row.ids) > limit:
            yield pack
            pack, size = [], 0
        pack.append(row)
        size += len(row.ids)
    if pack:
        yield pack


def _packed_logits(model: Any, rows: Sequence[TokenRow], device: torch.device) -> torch.Tensor:
    ids = torch.tensor([[token for row in rows for token in row.ids]], device=device)
    positions = torch.cat([torch.arange(len(row.ids)) for row in rows])[None].to(device)
    keep, start = [], 0
    for row in rows:
        keep.append(torch.arange(start + row.answer_start - 1, start + len(row.ids) - 1))
        start += len(row.ids)
    output = model(
        input_ids=ids, position_ids=positions, attention_mask=None, use_cache=False,
        logits_to_keep=torch.cat(keep).to(device),
    )  # fmt: skip
    return output.logits[0]


def _padded_logits(model: Any, rows: Sequence[TokenRow], device: torch.device) -> torch.Tensor:
    """Right padding with a mask built from lengths, never from token ids (pad may equal eos)."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows], device=device)
    lengths = torch.tensor([len(row.ids) for row in rows], device=device)
    mask = (torch.arange(longest, device=device)[None] < lengths[:, None]).long()
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return torch.cat([logits[n, row.answer_start - 1 : len(row.ids) - 1] for n, row in enumerate(rows)])


@torch.inference_mode()
def answer_logprobs(
    model: Any, rows: Sequence[TokenRow], *, batch_tokens: int = CPU_PACK_TOKENS, tick: Any = None
) -> list[torch.Tensor]:
    """Log-probability of every answer token, a (answer tokens,) CPU tensor per row, in the order of `rows`."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))
    found: list[torch.Tensor | None] = [None] * len(rows)
    done = 0
    for pack in _packs([rows[number] for number in order], batch_tokens):
        logits = answer_logits(model, pack)
        targets, _ = answer_targets(pack, logits.device)
        logprobs = (logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1)).cpu()
        for piece in logprobs.split([row.answer_tokens for row in pack]):
            found[order[done]] = piece
            done += 1
        if tick:
            tick(done, len(rows))
    return [piece for piece in found if piece is not None]
