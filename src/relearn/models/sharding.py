"""Detect models whose weights are sharded across processes (FSDP), and gather their trained weights.

The weight matrices of a sharded model are complete only during a forward pass.
"""

from __future__ import annotations

from typing import Any

import torch


def is_sharded(model: Any) -> bool:
    """Return whether `model` is sharded by FSDP; `model` includes its wrapper."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return isinstance(model, FSDPModule | FullyShardedDataParallel)


def whole_state(model: Any) -> dict[str, Any] | None:
    """Gather the trained weights of a sharded model on the CPU of the main process; return None for other models.

    All processes must call this function. Frozen weights are left out.
    """
    if not any(hasattr(weight, "full_tensor") for weight in model.parameters()):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    frozen = any(not weight.requires_grad for weight in model.parameters())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=frozen)
    return get_model_state_dict(model, options=options)
