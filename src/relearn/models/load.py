"""Load a causal language model from safetensors weights, by hub name, folder or built-in name.

Remote code is not run by default. 4-bit weights, Liger kernels and FlashAttention each need a CUDA GPU and a package.
Before a model is loaded, `check_machine` raises an error if the recipe requires one that is not available. With the
setting `auto`, they are used where available.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from relearn.core.config import Generate, Lora, Model
from relearn.core.errors import InputError, MissingPartError, loading
from relearn.core.files import check_safetensors, read_json, write_json
from relearn.models.builtin import builtin_path, is_builtin
from relearn.models.chat import ChatFormat, chat_format
from relearn.models.lora import add_lora, attach_adapter, check_adapter, merge_adapter

# The files beside the weights in a model's folder.
_SETTINGS = (
    *("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template*", "additional_chat_templates", "vocab.*", "merges.txt", "*.model", "*.tiktoken", "*.py"),
)

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
    options = _origin(spec)
    attention = None if spec.attention == "auto" else spec.attention
    form = {"dtype": _dtype(spec.dtype), "attn_implementation": attention, **quantized(spec, device)}
    with _readable_errors(spec.name):
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **form, **options)
        if spec.quantization == "none" and getattr(model, "hf_quantizer", None) is None:
            model = model.to(device)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    for adapter in (*(Path(name).expanduser() for name in spec.adapters), *adapters):
        model = merge_adapter(model, adapter)
    model = model.eval()
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
        return AutoTokenizer.from_pretrained(_folder(spec), **_origin(spec))


def load_config(spec: Model) -> Any:
    """Load the model configuration without the weights. Raises InputError if it cannot be loaded."""
    with _readable_errors(spec.name):
        return AutoConfig.from_pretrained(_folder(spec), **_origin(spec))


def _origin(spec: Model) -> dict[str, Any]:
    """Return the options of `from_pretrained` that decide which files are read and whether their code is run.

    Without an explicit False, transformers asks at the terminal whether to run the code of a repository.
    """
    return {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}


def save_like(model: Any, spec: Model, target: Path) -> torch.dtype:
    """Save changed weights of the model of `spec` in the folder `target`, in that model's form; return their dtype.

    The weights get the dtype of that model (those that transformers keeps in float32 are not rounded). Configuration,
    tokenizer and chat template are copied as they are; only embeddings that are no longer tied are recorded.
    """
    dtype = _stored_dtype(spec)
    kept = (*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ()))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not any(part in name for part in kept):
            tensor.data = tensor.data.to(dtype)
    model.save_pretrained(str(target), safe_serialization=True)
    source = _config_file(spec).parent
    (target / "generation_config.json").unlink(missing_ok=True)
    for file in (file for pattern in _SETTINGS for file in source.glob(pattern)):
        copy = shutil.copytree if file.is_dir() else shutil.copyfile
        copy(file, target / file.name)
    tied = model.config.get_text_config().tie_word_embeddings
    if load_config(spec).get_text_config().tie_word_embeddings != tied:
        write_json(target / "config.json", {**read_json(target / "config.json"), "tie_word_embeddings": tied})
    return dtype


def _config_file(spec: Model) -> Path:
    """Return the config.json of a model, in its folder or in the cache of the hub."""
    folder = Path(_folder(spec))
    if folder.is_dir():
        return folder / "config.json"
    with _readable_errors(spec.name):
        return Path(str(cached_file(spec.name, "config.json", revision=spec.revision)))


def _stored_dtype(spec: Model) -> torch.dtype:
    """Return the dtype of a model's weights on disk: as its configuration says, else that of its first weight."""
    dtype = load_config(spec).dtype
    if dtype is None:
        file = min(_config_file(spec).parent.glob("*.safetensors"))
        with _readable_errors(spec.name), safe_open(file, "pt") as weights:
            dtype = weights.get_tensor(min(weights.keys())).dtype
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def check_checkpoint(spec: Model, *, trains: bool = False) -> None:
    """Raise InputError for a model or adapter in a folder that cannot be loaded; no weights are read.

    Reads the configuration, the headers of all weights, the packages that quantised weights need, and the names of the
    adapters' weights. `trains`: an adapter will be merged or all weights trained, which quantised weights do not allow.
    """
    folder = Path(_folder(spec))
    if folder.is_dir():
        check_weights(folder)
        _check_kind(spec, load_config(spec), merges=trains or bool(spec.adapters))
    for adapter in (Path(name).expanduser() for name in spec.adapters):
        check_adapter(adapter)
        if (model := empty_model(spec)) is not None:
            attach_adapter(model, adapter)


def _check_kind(spec: Model, config: Any, *, merges: bool) -> None:
    """Raise InputError for quantised weights that cannot be read or changed, and for other kinds of models."""
    quantised = getattr(config, "quantization_config", None)
    if quantised is None:
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not getattr(config, "auto_map", None):
            raise InputError(f"a {config.model_type} is no causal language model", where=spec.name, way_out="a decoder")
        return
    with _readable_errors(spec.name):
        AutoHfQuantizer.from_config(quantised, pre_quantized=True).validate_environment(device_map=None)
    if merges:
        raise InputError(
            "its weights are quantised, and nothing can be merged into them or trained",
            where=spec.name,
            way_out="give the model in 16 bits",
        )


def check_weights(folder: Path) -> None:
    """Raise InputError for weights in safetensors form that are missing, cut off, or pointers of git-LFS."""
    files = set(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        values = read_json(index)
        files |= {folder / name for name in (values.get("weight_map") or {}).values()}
    for file in sorted(files):
        if not file.exists():
            raise InputError("is missing beside its index", where=str(file), way_out="download or copy it again")
        check_safetensors(file)


def check_lora(spec: Model, settings: Lora, where: str) -> None:
    """Raise InputError for LoRA layers that the model does not have; `where`: the recipe key of the settings."""
    if (model := empty_model(spec)) is not None:
        add_lora(model, settings, seed=0, where=where)


def empty_model(spec: Model) -> Any | None:
    """Build the model without weights; return None where its configuration is not on this machine or not enough."""
    try:
        config = load_config(spec)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=spec.trust_remote_code)
    except Exception:
        # Some models compute numbers while they are built, which is impossible without weights.
        return None


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
    """Convert every error of another library while the model `name` is loaded."""
    way_out = "give smollm2-135m-instruct, a folder with safetensors weights, or a name on the hub (online)"
    with loading(f"model {name!r}", way_out=way_out):
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            if "trust_remote_code" not in str(error):
                raise
            problem = f"the model {name!r} needs code from its own repository, which is not run"
            raise InputError(problem, way_out="if you trust it: --trust-remote-code") from None


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
