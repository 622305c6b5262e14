"""What a model can use of the machine it is on: 4-bit weights, Liger's kernels, FlashAttention.

All three need a CUDA GPU. What a recipe demands and the machine lacks is said before anything is loaded; what it leaves
open (`liger: auto`, `attention: auto`) is used where it is there.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import torch

from relearn.core.config import Generate, Model
from relearn.core.errors import InputError, MissingPartError


def check_machine(spec: Model, *, full: bool = False, learns: bool = False) -> None:
    """Raises InputError when the machine cannot do what the recipe's `model` asks for.

    `full`: all weights are to be trained; `learns`: an adapter is to be merged in on the way.
    """
    if spec.quantization == "nf4":
        _check_four_bits(spec, full=full, merges=learns or bool(spec.adapters))
    if spec.attention == "flash_attention_2" and not has_flash_attention():
        raise MissingPartError(
            "FlashAttention 2 needs a CUDA GPU and the package flash-attn", where="model.attention",
            way_out="leave it auto: PyTorch's own attention has such kernels too",
        )  # fmt: skip
    if spec.liger == "on":
        _need_gpu(spec, "model.liger", "Liger's kernels need a CUDA GPU", "liger: auto")
        _need_package("liger_kernel", "liger-kernel", "model.liger")


def check_backend(settings: Generate, spec: Model) -> None:
    """Raises InputError when `generate.backend` cannot be had on this machine for this model."""
    if settings.backend != "vllm":
        return
    where, way_out = "generate.backend", "backend: transformers"
    if spec.quantization != "none":
        raise InputError("4-bit weights are not handed to vLLM", where=where, way_out=way_out)
    _need_gpu(spec, where, "vLLM needs a CUDA GPU", way_out)
    _need_package("vllm", "vllm", where)


def has_flash_attention() -> bool:
    from transformers.utils.import_utils import is_flash_attn_2_available

    return torch.cuda.is_available() and is_flash_attn_2_available()


def quantized(spec: Model, device: str) -> dict[str, Any]:
    """What `from_pretrained` needs beside the name to load 4-bit weights; nothing for weights as they are.

    NF4 with doubly quantised scales, as QLoRA has it (Dettmers et al. 2023, arXiv 2305.14314); multiplications are in
    the model's own number format, norms and output layer stay in it.
    """
    if spec.quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if spec.dtype == "auto" else getattr(torch, spec.dtype)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    # 4-bit weights are made on the device they stay on; in each process of several that is the current one.
    place = torch.cuda.current_device() if device == "cuda" else device
    return {"quantization_config": config, "dtype": compute, "device_map": {"": place}}


def use_liger(model: Any, wanted: str) -> bool:
    """Put Liger's norms and gated MLPs into `model`, where it may be and can be; returns whether it was done.

    Not its cross entropy: the losses here never see all logits at once. Not its rotary embedding either: that would
    replace a function for all models of the process, those on the CPU too.
    """
    on_gpu = next(model.parameters()).device.type == "cuda"
    if wanted == "off" or not on_gpu or importlib.util.find_spec("liger_kernel") is None:
        return False
    from liger_kernel.transformers import _apply_liger_kernel_to_instance  # pyright: ignore[reportMissingImports]
    from liger_kernel.transformers.monkey_patch import (  # pyright: ignore[reportMissingImports]
        MODEL_TYPE_TO_APPLY_LIGER_FN,
    )

    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return False
    # Liger puts its classes into the module the model comes from as well, for all models made later.
    module = sys.modules[type(model).__module__]
    before = dict(vars(module))
    _apply_liger_kernel_to_instance(model=model, rope=False, cross_entropy=False, fused_linear_cross_entropy=False)
    vars(module).update(before)
    return True


def _check_four_bits(spec: Model, *, full: bool, merges: bool) -> None:
    where = "model.quantization"
    if full:
        raise InputError("4-bit weights cannot be trained", where=where, way_out="set unlearn.full to false")
    if merges:
        raise InputError(
            "an adapter that is merged into 4-bit weights is rounded away", where=where,
            way_out="merge it into the model beforehand (relearn export), or quantization: none",
        )  # fmt: skip
    _need_gpu(spec, where, "4-bit weights need a CUDA GPU", "quantization: none")
    _need_package("bitsandbytes", "bitsandbytes", where)


def _need_gpu(spec: Model, where: str, what: str, way_out: str) -> None:
    if not torch.cuda.is_available() or spec.device == "cpu":
        raise InputError(what, where=where, way_out=way_out)


def _need_package(module: str, extra: str, where: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingPartError(f"{extra} is not installed", where=where, way_out=f"pip install 'relearn-llm[{extra}]'")
