"""Add, load, merge and save LoRA adapters (Hu et al. 2021, arXiv 2106.09685) with PEFT.

Experts of a mixture are parameters with one matrix per expert, not linear layers; PEFT adapts them as
`target_parameters`. Merging compares the logits before and after, because a wrong merge gives a model that answers, but
not as the run measured.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from relearn.core.config import Lora
from relearn.core.distributed import whole_state
from relearn.core.errors import InputError, RunFailedError, loading
from relearn.core.files import check_safetensors, read_json, write_json
from relearn.core.registry import suggest

# PEFT takes linear layers with these names for the experts of checkpoints in an older form, and so adapts the experts
# instead. Beside experts, their weights are given as `target_parameters`, which it takes by their full name.
_NAMES_OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
# Largest accepted difference of logits by merging, as a share of the largest logit. In float32 merging changes only the
# order of sums. In 16 bits it rounds W + B A to 11 or 8 bits: measured after 30 layers 0.2 % and 2.5 %.
_ROUNDING = {torch.bfloat16: 5e-2, torch.float16: 1e-2}
_FULL_ROUNDING = 1e-3
# Tokens of the comparison, as shares of the vocabulary: ordinary tokens, since the first ones are often control tokens.
_PROBE = (0.15, 0.31, 0.47, 0.63, 0.79, 0.95, 0.23, 0.55, 0.71, 0.39, 0.87, 0.5)


def add_lora(model: Any, settings: Lora, *, seed: int, where: str = "unlearn.lora") -> Any:
    """Add a new LoRA adapter to a model. Raises InputError for unknown layer names; `where`: the recipe key.

    The matrix B of each layer is initialised to zero, so the adapter does not change the model's outputs. Experts have
    an adapter of rank r each, without dropout, which PEFT cannot apply to them.
    """
    from peft import LoraConfig, get_peft_model

    layers, parameters = targets(model, settings, f"{where}.target")
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=0.0 if parameters else settings.dropout,
        target_modules=layers,
        target_parameters=parameters or None,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    with _quiet():
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            line = str(error).split("\n")[0]
            raise InputError(line, where=f"{where}.target", way_out="name layers of this model") from None
    if parameters and settings.dropout:
        _set_dropout(adapted, settings.dropout)
    return adapted


def linear_layers(model: Any) -> list[str]:
    """List the last name parts of all linear layers except the LM head, sorted (as in the paper)."""
    head = model.get_output_embeddings()
    return sorted({name.rsplit(".", 1)[-1] for name, module in _linear(model) if module is not head})


def expert_parameters(model: Any) -> list[str]:
    """List the matrices of fused experts, without the number of their layer: mlp.experts.gate_up_proj; sorted."""
    names = set()
    for name, module in model.named_modules():
        if "Expert" not in type(module).__name__:
            continue
        for own, weight in module.named_parameters(recurse=False):
            if weight.ndim in (2, 3) and "bias" not in own and weight.is_floating_point():
                names.add(_below_layer(f"{name}.{own}"))
    return sorted(names)


def targets(model: Any, settings: Lora, where: str) -> tuple[list[str], list[str]]:
    """Return PEFT's `target_modules` and `target_parameters`. Raises InputError for a name that no layer has."""
    every_linear = settings.target == "all-linear"
    wanted = linear_layers(model) if every_linear else list(settings.target)
    experts = expert_parameters(model)
    if not every_linear:
        places = [*experts, *(name for name, _ in model.named_modules())]
        for name in wanted:
            if not any(_ends(place, name) for place in places):
                way_out = suggest(name, linear_layers(model) + experts)
                raise InputError(f"the model has no layer {name!r}", where=where, way_out=way_out)
    if not experts:
        return wanted, []
    beside = {_below_layer(f"{name}.weight") for name, _ in _linear(model) if name.split(".")[-1] in _NAMES_OF_EXPERTS}
    parameters = {name for name in experts if every_linear or any(_ends(name, own) for own in wanted)}
    parameters |= {name for name in beside if any(_ends(name, f"{own}.weight") for own in wanted)}
    layers = [name for name in wanted if not any(_ends(own.removesuffix(".weight"), name) for own in parameters)]
    return layers, sorted(parameters)


def _ends(name: str, part: str) -> bool:
    return f".{name}".endswith(f".{part}")


def _linear(model: Any) -> list[tuple[str, Any]]:
    """List the linear layers with their names, without routers, which may be subclasses that return several tensors."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) and "Router" not in type(module).__name__)
        or type(module).__name__ == "Conv1D"
    ]


def _below_layer(name: str) -> str:
    """Return the part of a name after the number of the layer, or the whole name outside of layers."""
    return re.split(r"\.\d+\.", name)[-1]


def _set_dropout(model: Any, dropout: float) -> None:
    """Set the dropout of all adapted linear layers; `model` was adapted without, since experts allow none."""
    for module in model.modules():
        if hasattr(module, "lora_dropout") and not hasattr(module, "parameter_name"):
            for name in module.lora_dropout:
                module.lora_dropout[name] = torch.nn.Dropout(dropout)


def check_adapter(adapter: Path) -> None:
    """Raise InputError unless the folder contains a LoRA-like PEFT adapter in safetensors format."""
    where = str(adapter)
    if not (adapter / "adapter_config.json").exists():
        raise InputError("no adapter_config.json there", where=where, way_out="give a PEFT adapter folder")
    if not (adapter / "adapter_model.safetensors").exists():
        raise InputError(
            "adapter is not in safetensors form", where=where, way_out="save it with safe_serialization=True"
        )
    values = read_json(adapter / "adapter_config.json")
    kind = values.get("peft_type") if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise InputError("adapter_config.json names no peft_type", where=where, way_out="give a PEFT adapter folder")
    # These add tokens or layers to the input; there is nothing to merge, and rows cannot be packed.
    if any(key in values for key in ("num_virtual_tokens", "adapter_len")):
        raise InputError(f"is an adapter of kind {kind}", where=where, way_out="give a LoRA adapter")
    check_safetensors(adapter / "adapter_model.safetensors")


def attach_adapter(model: Any, adapter: Path, name: str = "default") -> Any:
    """Add a PEFT adapter without merging it, so that it can be disabled; return the adapted model.

    Raises InputError for an adapter that cannot be read, or whose weights are not exactly those that it adds to this
    model: with other names they would not be loaded, and the model would answer as if it had no adapter.
    """
    from peft import PeftModel

    check_adapter(adapter)
    way_out = "give the model that it was trained on"
    problems = []
    with loading("this adapter", where=str(adapter), way_out=way_out), _quiet():
        try:
            if not isinstance(model, PeftModel):
                model = PeftModel.from_pretrained(model, str(adapter), adapter_name=name, use_safetensors=True)
            keys = model.load_adapter(str(adapter), adapter_name=name)
            found = ("missing", keys.missing_keys), ("of layers that it does not have", keys.unexpected_keys)
            problems = [f"{len(names)} weights are {kind} ({names[0]})" for kind, names in found if names]
        except RuntimeError as error:
            problems = [line.strip()[:300] for line in str(error).split("\n") if "size mismatch" in line][:1]
            if not problems:
                raise
    if problems:
        raise InputError(f"adapter does not fit the model: {', '.join(problems)}", where=str(adapter), way_out=way_out)
    return model.eval()


def merge_adapter(model: Any, adapter: Path) -> Any:
    """Merge a PEFT adapter into the weights. Raises InputError for a pickle file or an adapter that does not fit."""
    return merge(attach_adapter(model, adapter), str(adapter))


def merge(model: Any, where: str) -> Any:
    """Merge the active adapters of a PEFT model into its weights; `where` names them in errors.

    Tied input and output embeddings are separated first if one of them has an adapter. Raises InputError for quantised
    weights, and RunFailedError if the logits change by more than rounding.
    """
    if getattr(model.get_base_model(), "hf_quantizer", None) is not None:
        raise InputError(
            "an adapter that is merged into quantised weights is rounded away",
            where=where,
            way_out="merge it into the model in 16 bits",
        )
    ids = probe_ids(model)
    expected = probe_logits(model, ids)
    untie(model)
    with _quiet():
        merged = model.merge_and_unload().eval()
    check_logits(probe_logits(merged, ids), expected, _dtype(merged), where=where)
    return merged


def untie(model: Any) -> None:
    """Give input and output embeddings weights of their own if they are tied and one of them has an adapter."""
    inner = model.get_base_model()
    layers = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    if None in layers or not any(hasattr(layer, "base_layer") for layer in layers):
        return
    first, head = (getattr(layer, "base_layer", layer) for layer in layers)
    if first.weight.data_ptr() != head.weight.data_ptr():
        return
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    for config in (inner.config, inner.config.get_text_config()):
        config.tie_word_embeddings = False


def probe_ids(model: Any) -> list[int]:
    """Choose the tokens of the comparison: ordinary ones, and a few of those whose input embeddings are adapted."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    size = inner.config.get_text_config().vocab_size
    adapted = getattr(inner.get_input_embeddings(), "lora_embedding_A", {}).values()
    changed = [token for rows in adapted for token in rows.detach().any(0).nonzero().flatten().tolist()]
    return [int(share * size) for share in _PROBE] + changed[:4]


@torch.no_grad()
def probe_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Compute the logits (T, V), float32 on the CPU, of a text."""
    device = next(model.parameters()).device
    return model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0].float().cpu()


def check_logits(logits: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, *, where: str) -> None:
    """Raise RunFailedError if logits (T, V) differ from the expected ones by more than rounding to `dtype`.

    The median over the positions counts, because rounding may send single tokens of a mixture to another expert.
    """
    bound = _ROUNDING.get(dtype, _FULL_ROUNDING) * (1 + expected.abs().max())
    found = (logits - expected).abs().amax(-1).median()
    if not found <= bound:
        raise RunFailedError(
            f"the merged model is not the run's model: its logits differ by {found:.3g}, and rounding to "
            f"{str(dtype).removeprefix('torch.')} explains {bound:.3g}",
            where=where,
            way_out="use the adapter without merging it (relearn export --adapter)",
        )


def _dtype(model: Any) -> torch.dtype:
    """Return the least precise dtype of the weights."""
    kinds = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    return max(kinds, key=lambda kind: torch.finfo(kind).eps)


@contextmanager
def _quiet():
    """Suppress PEFT's warnings, which this module checks itself or turns into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def save_adapter(model: Any, folder: Path) -> None:
    """Write only adapter_config.json and adapter_model.safetensors; equal adapters give identical files."""
    with _quiet():
        model.save_pretrained(str(folder), safe_serialization=True, state_dict=whole_state(model))
    (folder / "README.md").unlink(missing_ok=True)
    config = folder / "adapter_config.json"
    values = read_json(config)
    # PEFT stores the names in sets, whose order differs between processes.
    names = {key: sorted(values[key]) for key in ("target_modules", "target_parameters") if values.get(key)}
    write_json(config, {**values, **names})


def ready_for_autocast(model: Any, ready: bool = True) -> None:
    """Keep bfloat16 copies of frozen weights and skip PEFT's input casts under autocast; `ready` False undoes both.

    Otherwise autocast converts the weights in every forward pass, and PEFT converts the adapter's inputs to float32 and
    back. The results are equal.
    """
    for module in model.modules():
        # The weight of experts is computed in every pass from the adapter, so there is no copy to keep.
        if not hasattr(module, "cast_input_dtype_enabled") or hasattr(module, "parameter_name"):
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
