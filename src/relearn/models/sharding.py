"""Handle models whose weights are sharded among processes (FSDP): matrices are complete only during a pass."""

from __future__ import annotations

from typing import Any

import torch


def is_sharded(model: Any) -> bool:
    """Whether `model`, in the wrapper that is called, is sharded."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return isinstance(model, FSDPModule | FullyShardedDataParallel)


def whole_state(model: Any) -> dict[str, Any] | None:
    """Gather the trained weights of a sharded model on the CPU of the main process; None for any other model.

    All processes have to call this. Frozen weights are left out.
    """
    if not any(hasattr(weight, "full_tensor") for weight in model.parameters()):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    frozen = any(not weight.requires_grad for weight in model.parameters())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=frozen)
    return get_model_state_dict(model, options=options)
