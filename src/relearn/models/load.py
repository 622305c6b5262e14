"""Load a causal language model by name, folder or built-in name, safely: safetensors only, no remote code unasked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from relearn.core.config import Model
from relearn.core.errors import InputError
from relearn.models.builtin import builtin_path, is_builtin
from relearn.models.chat import ChatFormat, chat_format
from relearn.models.machine import check_machine, quantized, use_liger

# The run has its own progress bars and its own errors.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@dataclass
class Loaded:
    """A model in memory with what is needed to talk to it. There is never more than one of them."""

    model: Any
    tokenizer: Any
    chat: ChatFormat
    name: str

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def load(spec: Model, *, adapters: tuple[Path, ...] = ()) -> Loaded:
    """The model of `spec` with its adapter and then `adapters` merged in, in eval mode.

    Raises InputError when the name is neither a built-in model, a folder nor known to the hub, when the weights are
    pickles, or when an adapter does not fit.
    """
    check_machine(spec, learns=bool(adapters))
    folder = _folder(spec)
    device = _device(spec.device)
    options = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    form = {"dtype": _dtype(spec.dtype), "attn_implementation": _attention(spec.attention), **quantized(spec, device)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **form, **options)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loadable(spec.name, error) from None
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
    chat = chat_format(tokenizer, template=spec.chat_template, system_prompt=spec.system_prompt)
    return Loaded(model, tokenizer, chat, spec.name)


def load_tokenizer(spec: Model) -> Any:
    """The tokenizer alone, for counting."""
    try:
        return AutoTokenizer.from_pretrained(_folder(spec), revision=spec.revision)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loadable(spec.name, error) from None


def load_config(spec: Model) -> Any:
    """The model's configuration alone, for estimates."""
    try:
        return AutoConfig.from_pretrained(
            _folder(spec), revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_loadable(spec.name, error) from None


def merge_adapter(model: Any, adapter: Path) -> Any:
    """Fold a PEFT adapter into the weights. Pickled adapters are refused."""
    from peft import PeftModel

    check_adapter(adapter)
    try:
        return PeftModel.from_pretrained(model, str(adapter), use_safetensors=True).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"adapter does not fit the model: {error}", where=str(adapter)) from None


def check_adapter(adapter: Path) -> None:
    if not (adapter / "adapter_config.json").exists():
        raise InputError("no adapter_config.json there", where=str(adapter), way_out="give a PEFT adapter folder")
    if not (adapter / "adapter_model.safetensors").exists():
        raise InputError(
            "adapter is not in safetensors form", where=str(adapter), way_out="save it with safe_serialization=True"
        )


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


def _not_loadable(name: str, error: Exception) -> InputError:
    first_line = str(error).strip().split("\n")[0][:200]
    return InputError(
        f"cannot load model {name!r}: {first_line}",
        way_out="give smollm2-135m-instruct, a folder with safetensors weights, or a name on the hub (needs network)",
    )


def _dtype(name: str) -> torch.dtype | str:
    if name == "auto":
        return "auto" if torch.cuda.is_available() else torch.float32
    return getattr(torch, name)


def _attention(name: str) -> str | None:
    return None if name == "auto" else name


def _device(name: str) -> str:
    if name.startswith("cuda:"):
        # What asks for "cuda" later on, Trainer and the judges, is to end up on the same GPU.
        torch.cuda.set_device(name)
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
