"""Load a causal language model from safetensors weights, by hub name, folder or built-in name.

Remote code is not run by default. 4-bit weights, Liger kernels and FlashAttention each need a CUDA GPU and a package.
Before a model is loaded, `check_machine` raises an error if the recipe requires one that is not available. With the
setting `auto`, they are used where available.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from relearn.core.config import Generate, Model
from relearn.core.errors import InputError, MissingPartError
from relearn.models.builtin import builtin_path, is_builtin
from relearn.models.chat import ChatFormat, chat_format

# relearn shows its own progress bars and error messages.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@dataclass
class Loaded:
    """Store a loaded model with its tokenizer and chat format. `name`: model name in the recipe."""

    model: Any
    tokenizer: Any
    chat: ChatFormat
    name: str

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def load(spec: Model, *, adapters: tuple[Path, ...] = ()) -> Loaded:
    """Load the model of `spec` in eval mode with frozen weights; merge the adapters of `spec`, then `adapters`.

    Raises InputError if the name is not a built-in model, a folder or a model on the hub, if the weights are pickle
    files, or if an adapter does not fit.
    """
    check_machine(spec, learns=bool(adapters))
    folder = _folder(spec)
    device = _device(spec.device)
    options = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    attention = None if spec.attention == "auto" else spec.attention
    form = {"dtype": _dtype(spec.dtype), "attn_implementation": attention, **quantized(spec, device)}
    with _readable_errors(spec.name):
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **form, **options)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    for adapter in (*map(Path, spec.adapters), *adapters):
        model = merge_adapter(model, adapter)
    if spec.quantization == "none":
        model = model.to(device)  # pyright: ignore[reportArgumentType]
    model: Any = model.eval()
    use_liger(model, spec.liger)
    model.requires_grad_(False)
    return Loaded(model, tokenizer, chat_of(tokenizer, spec, own_ends(model)), spec.name)


def chat_of(tokenizer: Any, spec: Model, ends: Collection[int] = ()) -> ChatFormat:
    """Derive the chat format of a model from its tokenizer; `ends`: token ids that end an answer by its settings."""
    return chat_format(
        tokenizer,
        template=spec.chat_template,
        system_prompt=spec.system_prompt,
        thinking=spec.thinking,
        day=spec.date,
        ends=ends,
        name=spec.name,
    )


def own_ends(model: Any) -> set[int]:
    """Return the token ids that end an answer by the model's generation settings."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = ends if isinstance(ends, list | tuple) else [ends]
    return {int(end) for end in listed if end is not None}


def load_tokenizer(spec: Model) -> Any:
    """Load the tokenizer without the model. Raises InputError if it cannot be loaded."""
    with _readable_errors(spec.name):
        return AutoTokenizer.from_pretrained(_folder(spec), revision=spec.revision)


def load_config(spec: Model) -> Any:
    """Load the model configuration without the weights. Raises InputError if it cannot be loaded."""
    options = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    with _readable_errors(spec.name):
        return AutoConfig.from_pretrained(_folder(spec), **options)


def merge_adapter(model: Any, adapter: Path) -> Any:
    """Merge a PEFT adapter into the weights. Raises InputError for a pickle file or an adapter that does not fit."""
    from peft import PeftModel

    check_adapter(adapter)
    try:
        return PeftModel.from_pretrained(model, str(adapter), use_safetensors=True).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"adapter does not fit the model: {error}", where=str(adapter)) from None


def check_adapter(adapter: Path) -> None:
    """Raise InputError unless the folder contains a PEFT adapter in safetensors format."""
    if not (adapter / "adapter_config.json").exists():
        raise InputError("no adapter_config.json there", where=str(adapter), way_out="give a PEFT adapter folder")
    if not (adapter / "adapter_model.safetensors").exists():
        raise InputError(
            "adapter is not in safetensors form", where=str(adapter), way_out="save it with safe_serialization=True"
        )


def check_machine(spec: Model, *, full: bool = False, learns: bool = False) -> None:
    """Raise InputError if the recipe's `model` settings need a GPU or a package that is not available.

    `full`: all weights will be trained; `learns`: an adapter will be merged before unlearning.
    """
    if spec.quantization == "nf4":
        _check_four_bits(spec, full=full, merges=learns or bool(spec.adapters))
    if spec.attention == "flash_attention_2" and not has_flash_attention():
        raise MissingPartError(
            "FlashAttention 2 needs a CUDA GPU and the package flash-attn",
            where="model.attention",
            way_out="leave it auto: PyTorch's own attention has such kernels too",
        )
    if spec.liger == "on":
        _need_gpu(spec, "model.liger", "Liger's kernels need a CUDA GPU", "liger: auto")
        _need_package("liger_kernel", "liger-kernel", "model.liger")


def check_backend(settings: Generate, spec: Model) -> None:
    """Raise InputError if `generate.backend` is not available on this machine for this model."""
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
    """Return the options of `from_pretrained` for 4-bit weights; return {} if the recipe does not quantise.

    NF4 with double quantisation of the scales, as in QLoRA (Dettmers et al. 2023, arXiv 2305.14314). Matrix products
    are computed in the model's dtype. Norms and LM head keep that dtype.
    """
    if spec.quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if spec.dtype == "auto" else getattr(torch, spec.dtype)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    # 4-bit weights cannot be moved to another device later. Each process has its own current device.
    target = torch.cuda.current_device() if device == "cuda" else device
    return {"quantization_config": config, "dtype": compute, "device_map": {"": target}}


def use_liger(model: Any, wanted: str) -> bool:
    """Replace the norms and gated MLPs of `model` by Liger kernels where possible; return whether they were replaced.

    `wanted` "off" replaces nothing. Liger's cross entropy is not used, because the losses of relearn never compute all
    logits at once. Liger's rotary embedding is not used either: it replaces a function for all models of the process,
    including models on the CPU.
    """
    on_gpu = next(model.parameters()).device.type == "cuda"
    if wanted == "off" or not on_gpu or importlib.util.find_spec("liger_kernel") is None:
        return False
    from liger_kernel.transformers import _apply_liger_kernel_to_instance  # pyright: ignore[reportMissingImports]
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN  # pyright: ignore[reportMissingImports]

    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return False
    # Liger also replaces classes in the Python module of the model class, for all models loaded later. Undo that.
    module = sys.modules[type(model).__module__]
    before = dict(vars(module))
    _apply_liger_kernel_to_instance(model=model, rope=False, cross_entropy=False, fused_linear_cross_entropy=False)
    vars(module).update(before)
    return True


def _folder(spec: Model) -> str:
    if is_builtin(spec.name):
        return str(builtin_path(spec.name))
    path = Path(spec.name).expanduser()
    if not path.is_dir():
        return spec.name
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise InputError(
            "is an adapter, not a model", where=spec.name, way_out="name its base in model.name, this in model.adapter"
        )
    if not (path / "config.json").exists():
        raise InputError("no config.json there", where=spec.name, way_out="give a folder saved by save_pretrained")
    return str(path)


@contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().split("\n")[0][:200]
        raise InputError(
            f"cannot load model {name!r}: {first_line}",
            way_out="give smollm2-135m-instruct, a folder with safetensors weights, or a name on the hub (online)",
        ) from None


def _dtype(name: str) -> torch.dtype | str:
    if name == "auto":
        return "auto" if torch.cuda.is_available() else torch.float32
    return getattr(torch, name)


def _device(name: str) -> str:
    if name.startswith("cuda:"):
        # The trainer and judge models request "cuda" without a number and must get the same GPU.
        torch.cuda.set_device(name)
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_four_bits(spec: Model, *, full: bool, merges: bool) -> None:
    where = "model.quantization"
    if full:
        raise InputError("4-bit weights cannot be trained", where=where, way_out="set unlearn.full to false")
    if merges:
        raise InputError(
            "an adapter that is merged into 4-bit weights is rounded away",
            where=where,
            way_out="merge it into the model beforehand (relearn export), or quantization: none",
        )
    _need_gpu(spec, where, "4-bit weights need a CUDA GPU", "quantization: none")
    _need_package("bitsandbytes", "bitsandbytes", where)


def _need_gpu(spec: Model, where: str, what: str, way_out: str) -> None:
    if not torch.cuda.is_available() or spec.device == "cpu":
        raise InputError(what, where=where, way_out=way_out)


def _need_package(module: str, extra: str, where: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingPartError(f"{extra} is not installed", where=where, way_out=f"pip install 'relearn-llm[{extra}]'")
