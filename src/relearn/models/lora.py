"""Add, prepare and save LoRA adapters (Hu et al. 2021, arXiv 2106.09685) with PEFT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from relearn.core.config import Lora
from relearn.core.errors import InputError
from relearn.core.files import read_json, write_json
from relearn.models.sharding import whole_state


def add_lora(model: Any, settings: Lora, *, seed: int) -> Any:
    """Add a new LoRA adapter to a model. Raises InputError for unknown layer names.

    The matrix B of each layer is initialised to zero, so the adapter does not change the model's outputs.
    """
    from peft import LoraConfig, get_peft_model

    targets = linear_layers(model) if settings.target == "all-linear" else list(settings.target)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise InputError(str(error), where="unlearn.lora.target", way_out="name layers of this model") from None


def linear_layers(model: Any) -> list[str]:
    """List the last name parts of all linear layers except the LM head, sorted (as in the paper)."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D") and module is not head
        }
    )


def save_adapter(model: Any, folder: Path) -> None:
    """Write only adapter_config.json and adapter_model.safetensors; equal adapters give identical files."""
    model.save_pretrained(str(folder), safe_serialization=True, state_dict=whole_state(model))
    (folder / "README.md").unlink(missing_ok=True)
    config = folder / "adapter_config.json"
    values = read_json(config)
    # PEFT stores the layer names in a set, whose order differs between processes.
    write_json(config, {**values, "target_modules": sorted(values["target_modules"])})


def ready_for_autocast(model: Any, ready: bool = True) -> None:
    """Keep bfloat16 copies of frozen weights and skip PEFT's input casts under autocast; `ready` False undoes both.

    Otherwise autocast converts the weights in every forward pass, and PEFT converts the adapter's inputs to float32 and
    back. The results are equal.
    """
    for module in model.modules():
        if not hasattr(module, "cast_input_dtype_enabled"):
            continue
        if ready:
            vars(module)["_cast_input_dtype"] = _cast_outside_autocast(module)
        else:
            vars(module).pop("_cast_input_dtype", None)
        base = getattr(module, "base_layer", None)
        if type(base) is not torch.nn.Linear or base.weight.requires_grad or base.weight.dtype != torch.float32:
            continue
        if ready:
            vars(base)["forward"] = _half_linear(base)
        else:
            vars(base).pop("forward", None)


def _cast_outside_autocast(module: Any) -> Callable[[Any, torch.dtype], Any]:
    """Return a function that casts a layer's inputs to the adapter's dtype as PEFT does, except under autocast."""
    cast = type(module)._cast_input_dtype

    def own(states: Any, dtype: torch.dtype) -> Any:
        if states is not None and torch.is_autocast_enabled(states.device.type):
            return states
        return cast(module, states, dtype)

    return own


def _half_linear(layer: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a forward function with a bfloat16 copy of the weights under autocast, else the layer's own weights."""
    weight = layer.weight.detach().to(torch.bfloat16)
    bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)

    def forward(states: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(states.device.type):
            return torch.nn.functional.linear(states, weight, bias)
        return torch.nn.functional.linear(states, layer.weight, layer.bias)

    return forward
