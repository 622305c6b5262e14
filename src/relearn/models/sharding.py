"""Models whose weights are split among processes (FSDP): no process holds a whole matrix between two passes."""

from __future__ import annotations

from typing import Any

import torch


def is_sharded(model: Any) -> bool:
    """Whether `model`, wrapped as it is called, is split among processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return isinstance(model, FSDPModule | FullyShardedDataParallel)


def whole_state(model: Any) -> dict[str, Any] | None:
    """The trained weights of a split model, put together on the CPU of the main process; None for any other model.

    All processes have to ask. Where everything is trained, everything is there.
    """
    if not any(_parts(weight) for weight in model.parameters()):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    frozen = any(not weight.requires_grad for weight in model.parameters())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=frozen)
    return get_model_state_dict(model, options=options)


def _parts(weight: torch.Tensor) -> bool:
    return hasattr(weight, "full_tensor")
