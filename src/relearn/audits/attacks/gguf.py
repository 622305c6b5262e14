"""Quantise the merged weights to GGUF files, read them back, and ask the plain questions again.

Small models are often distributed as Q8_0, Q4_0 and Q4_K_M; 4 bits may bring unlearned facts back (arXiv 2410.16454).
The gguf package writes Q8_0 and Q4_0. Only llama.cpp's llama-quantize writes Q4_K_M, from a file of unrounded weights;
if it is not installed, that format is not measured. The files are temporary.

The tensors equal those of llama.cpp. Models like Llama store query and key rows permuted, because llama.cpp's rotary
embedding pairs neighbouring rows; reading reverses this. As in llama.cpp, embeddings and output layer are stored in
Q8_0, matrices whose row length is not a multiple of the block size in F16, and vectors in F32.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relearn.audits.attack import AuditInputs, attack
from relearn.core import console
from relearn.core.errors import InputError
from relearn.core.files import make_private_dir
from relearn.models.load import Loaded

# Architectures whose query and key rows are permuted in GGUF, and architectures stored as in the checkpoint.
PERMUTED = ("llama", "mistral")
UNCHANGED = ("qwen2", "qwen3")
# Torch dtype -> GGUF type that stores it without rounding.
UNROUNDED = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
KEPT_IN_Q8 = ("token_embd.weight", "output.weight")
BLOCK = 32


def write_gguf(model: Any, file: Path, kind: str) -> None:
    """Write the weights of `model` to a new file; `kind` is F32, BF16, F16, Q8_0, Q4_0, Q4_1, ...

    Raises InputError for an architecture or a format that cannot be written.
    """
    import gguf

    config = model.config
    names = _tensor_names(model)
    writer = gguf.GGUFWriter(str(file), "llama" if config.model_type in PERMUTED else config.model_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, weight in model.named_parameters():
        array = _permute(weight.detach().float().cpu().numpy(), names[name], config, inverse=False)
        tensor_type = _tensor_type(names[name], array, kind)
        try:
            stored = gguf.quants.quantize(np.ascontiguousarray(array), tensor_type)
        except (NotImplementedError, gguf.quants.QuantError):
            raise InputError(f"the gguf package does not write {kind}", where=config.model_type) from None
        writer.add_tensor(names[name], stored, raw_dtype=tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def read_gguf(model: Any, file: Path) -> None:
    """Copy all weights of a file that `write_gguf` wrote into `model`, in place."""
    import gguf

    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(str(file)).tensors}
    names = _tensor_names(model)
    for name, weight in model.named_parameters():
        tensor = stored[names[name]]
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(weight.shape))
        weight.copy_(torch.from_numpy(np.array(_permute(array, names[name], model.config, inverse=True))))


def _tensor_names(model: Any) -> dict[str, str]:
    """Map the parameter names of `model` to GGUF names. Raises InputError for an unsupported architecture."""
    import gguf

    kind = model.config.model_type
    if kind not in (*PERMUTED, *UNCHANGED):
        raise InputError(
            f"no GGUF of the architecture {kind!r} is written here",
            where="audits.gguf",
            way_out=f"one of {', '.join((*PERMUTED, *UNCHANGED))}",
        )
    arch = gguf.MODEL_ARCH.LLAMA if kind in PERMUTED else gguf.MODEL_ARCH[kind.upper()]
    table = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    names = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name, _ in model.named_parameters()}
    if unnamed := [name for name, tensor_name in names.items() if tensor_name is None]:
        raise InputError(f"GGUF has no name for the weight {unnamed[0]}", where="audits.gguf")
    return {name: str(tensor_name) for name, tensor_name in names.items()}


def _tensor_type(name: str, array: np.ndarray, kind: str) -> Any:
    """Choose the GGUF type of one tensor in a file of format `kind`."""
    import gguf

    types = gguf.GGMLQuantizationType
    if array.ndim < 2:
        return types.F32
    if kind in UNROUNDED.values():
        return types[kind]
    if array.shape[-1] % BLOCK:
        return types.F16
    return types.Q8_0 if name in KEPT_IN_Q8 else types[kind]


def _permute(array: np.ndarray, name: str, config: Any, *, inverse: bool) -> np.ndarray:
    """Permute query and key rows of every head from two halves to neighbouring pairs, or back (`inverse`)."""
    if config.model_type not in PERMUTED or not name.endswith((".attn_q.weight", ".attn_k.weight")):
        return array
    heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
    half = array.shape[0] // heads // 2
    shape = (heads, half, 2) if inverse else (heads, 2, half)
    return array.reshape(*shape, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


TOOL = "llama-quantize"


def find_tool() -> str:
    """Return the path of llama-quantize. Raises InputError if it is not installed."""
    path = shutil.which(TOOL)
    if path is None:
        raise InputError(f"{TOOL} is not on the PATH", way_out="install llama.cpp")
    return path


def run_llama_quantize(source: Path, target: Path, kind: str) -> None:
    """Quantise the GGUF file `source` to `target` with llama-quantize, in a format such as Q4_K_M.

    Raises InputError if the tool is not installed, or, with its last line of output, if it fails.
    """
    command = [find_tool(), str(source), str(target), kind]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if result.returncode or not target.exists():
        lines = (result.stderr or result.stdout).strip().splitlines()
        raise InputError(f"{TOOL} ended with code {result.returncode}: {lines[-1] if lines else 'no output'}")


KINDS = ("Q8_0", "Q4_0")
LLAMA_CPP_KINDS = ("Q4_K_M",)


@attack(
    "gguf",
    label="GGUF round trip",
    family="precision",
    source="arXiv 2410.16454",
    description="merged weights written to a GGUF file and read back: Q8_0, Q4_0, by llama.cpp Q4_K_M",
)
def gguf_round_trip(load_model: Callable[[], Loaded], inputs: AuditInputs, ask: Callable[..., None]) -> None:
    parent = make_private_dir(inputs.folder / "audits")
    for kind in _available_kinds():
        loaded = load_model()
        with tempfile.TemporaryDirectory(dir=parent, prefix="gguf_") as folder:
            try:
                file = _write_kind(loaded.model, Path(folder), kind)
            except InputError as error:
                console.note(f"gguf, {kind}: not measured: {error}")
                continue
            read_gguf(loaded.model, file)
        ask(kind, loaded)


def _available_kinds() -> tuple[str, ...]:
    """Return the formats that can be written; checked first, before a model is loaded and large files are written."""
    try:
        find_tool()
    except InputError as error:
        console.note(f"gguf, {', '.join(LLAMA_CPP_KINDS)}: not measured: {error}")
        return KINDS
    return (*KINDS, *LLAMA_CPP_KINDS)


def _write_kind(model: Any, folder: Path, kind: str) -> Path:
    """Write `model` in format `kind` into `folder`; llama-quantize formats need an unrounded file first."""
    file = folder / "model.gguf"
    if kind in KINDS:
        write_gguf(model, file, kind)
        return file
    unrounded = folder / "whole.gguf"
    write_gguf(model, unrounded, UNROUNDED[model.dtype])
    run_llama_quantize(unrounded, file, kind)
    unrounded.unlink()
    return file
