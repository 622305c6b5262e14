"""LoRA: which layers it covers, putting a fresh adapter on, and saving it in PEFT's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from relearn.core.config import Lora
from relearn.core.errors import InputError
from relearn.core.run_dir import read_json, write_json
from relearn.models.sharding import whole_state


def add_lora(model: Any, settings: Lora, *, seed: int) -> Any:
    """A fresh adapter over `model`: with it off the model is the start model, to the bit (B starts at zero)."""
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
    """Names of all linear layers but the output layer (the paper's choice), shortest unique endings first."""
    head = model.get_output_embeddings()
    linear = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D") and module is not head
    }
    return sorted(linear)


def save_adapter(model: Any, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors alone; the same adapter gives the same bytes."""
    model.save_pretrained(str(folder), safe_serialization=True, state_dict=whole_state(model))
    (folder / "README.md").unlink(missing_ok=True)
    config = folder / "adapter_config.json"
    values = read_json(config)
    # PEFT keeps the layer names in a set, whose order changes from process to process.
    write_json(config, {**values, "target_modules": sorted(values["target_modules"])})


def ready_for_autocast(model: Any, ready: bool = True) -> None:
    """Spare mixed precision what it would do over and over: turn frozen weights to bfloat16 in every pass, and inputs
    of the adapter's layers to the adapter's float32 and back. The numbers are those of plain autocast.

    `ready` False undoes it.
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
    """PEFT's cast of a layer's inputs to the adapter's number format, where autocast does not see to it: a model in
    bfloat16 is asked outside autocast too."""
    cast = type(module)._cast_input_dtype

    def own(states: Any, dtype: torch.dtype) -> Any:
        if states is not None and torch.is_autocast_enabled(states.device.type):
            return states
        return cast(module, states, dtype)

    return own


def _half_linear(layer: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """The layer's forward with its weights kept in bfloat16 as well; outside autocast it is the layer's own."""
    weight = layer.weight.detach().to(torch.bfloat16)
    bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)

    def forward(states: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(states.device.type):
            return torch.nn.functional.linear(states, weight, bias)
        return torch.nn.functional.linear(states, layer.weight, layer.bias)

    return forward
