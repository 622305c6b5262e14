"""A GGUF round trip: the merged weights written to a real GGUF file, read back from it and asked again.

Q8_0, Q4_0 and Q4_K_M are the formats in which small models are handed round (arXiv 2410.16454: 4 bits may bring back
what was unlearned). The first two are written by the format's own Python package; Q4_K_M by llama.cpp's tool alone,
from a file of unrounded weights, and is not measured where that is not installed. The files stand in the run folder
while they are needed and are removed.

A model's weights as a GGUF file and back: what llama.cpp would hold, by the format's own reference code.

llama.cpp turns query and key rows of Llama-shaped models (its rotary embedding pairs neighbours); that is done on the
way there and undone on the way back. The embeddings and the output layer are kept in Q8_0, matrices whose rows are no
multiple of a block in F16, vectors in F32, as llama.cpp's own tool keeps them finer than the rest.

llama.cpp's own tool that makes a GGUF file smaller, where it is installed: nothing else writes the K formats.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relearn.audits.attack import AUDITS, AskAgain, Audit, Material
from relearn.core import console
from relearn.core.errors import InputError
from relearn.core.files import make_private_dir
from relearn.models.load import Loaded

# Architectures whose GGUF holds the same numbers as the checkpoint, but for the order of query and key rows.
TURNED = ("llama", "mistral")
AS_THEY_ARE = ("qwen2", "qwen3")
# The format that holds numbers as they are.
UNROUNDED = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
FINE = ("token_embd.weight", "output.weight")
BLOCK = 32


def write_gguf(model: Any, file: Path, kind: str) -> None:
    """The weights of `model` in a new file; `kind` is F32, BF16, F16, Q8_0, Q4_0, Q4_1, ...

    Raises InputError for an architecture or a format that cannot be written here.
    """
    import gguf

    config = model.config
    names = _names(model)
    writer = gguf.GGUFWriter(str(file), "llama" if config.model_type in TURNED else config.model_type)
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
    for name, weight in _weights(model):
        array = _turned(weight.detach().float().cpu().numpy(), names[name], config, back=False)
        chosen = _kind(names[name], array, kind)
        try:
            stored = gguf.quants.quantize(np.ascontiguousarray(array), chosen)
        except (NotImplementedError, gguf.quants.QuantError):
            raise InputError(f"the gguf package does not write {kind}", where=config.model_type) from None
        writer.add_tensor(names[name], stored, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def read_gguf(model: Any, file: Path) -> None:
    """Put the weights of a file of `write_gguf` into `model`, in place, every one of them."""
    import gguf

    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(str(file)).tensors}
    names = _names(model)
    for name, weight in _weights(model):
        tensor = stored[names[name]]
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(weight.shape))
        weight.copy_(torch.from_numpy(np.array(_turned(array, names[name], model.config, back=True))))


def _weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight once; an output layer that is the embeddings themselves is not stored again."""
    return ((name, weight) for name, weight in model.named_parameters())


def _names(model: Any) -> dict[str, str]:
    """The names of the weights in a GGUF."""
    import gguf

    kind = model.config.model_type
    if kind not in (*TURNED, *AS_THEY_ARE):
        raise InputError(
            f"no GGUF of the architecture {kind!r} is written here",
            where="audits.gguf",
            way_out=f"one of {', '.join((*TURNED, *AS_THEY_ARE))}",
        )
    arch = gguf.MODEL_ARCH.LLAMA if kind in TURNED else gguf.MODEL_ARCH[kind.upper()]
    table = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    found = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name, _ in _weights(model)}
    if unknown := [name for name, known in found.items() if known is None]:
        raise InputError(f"GGUF has no name for the weight {unknown[0]}", where="audits.gguf")
    return {name: str(known) for name, known in found.items()}


def _kind(name: str, array: np.ndarray, kind: str) -> Any:
    import gguf

    types = gguf.GGMLQuantizationType
    if array.ndim < 2:
        return types.F32
    if kind in UNROUNDED.values():
        return types[kind]
    if array.shape[-1] % BLOCK:
        return types.F16
    return types.Q8_0 if name in FINE else types[kind]


def _turned(array: np.ndarray, name: str, config: Any, *, back: bool) -> np.ndarray:
    """Query and key rows from halves to neighbouring pairs within every head, or `back`."""
    if config.model_type not in TURNED or not name.endswith((".attn_q.weight", ".attn_k.weight")):
        return array
    heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
    half = array.shape[0] // heads // 2
    shape = (heads, half, 2) if back else (heads, 2, half)
    return array.reshape(*shape, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


TOOL = "llama-quantize"


def tool() -> str:
    """Where the tool is. Raises InputError where it is not to be found."""
    found = shutil.which(TOOL)
    if found is None:
        raise InputError(f"{TOOL} is not on the PATH", way_out="install llama.cpp")
    return found


def quantise(source: Path, target: Path, kind: str) -> None:
    """Write the weights of `source` to `target` in a format by llama.cpp's name for it, Q4_K_M for one.

    Raises InputError where the tool is not to be found or fails, with what it said last.
    """
    command = [tool(), str(source), str(target), kind]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode or not target.exists():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise InputError(f"{TOOL} ended with code {done.returncode}: {said[-1] if said else 'it said nothing'}")


KINDS = ("Q8_0", "Q4_0")
LLAMA_CPP_KINDS = ("Q4_K_M",)


def _changes(fresh: Callable[[], Loaded], material: Material, ask: AskAgain) -> None:
    held = make_private_dir(material.folder / "audits")
    for kind in _kinds():
        loaded = fresh()
        with tempfile.TemporaryDirectory(dir=held, prefix="gguf_") as folder:
            try:
                file = _written(loaded.model, Path(folder), kind)
            except InputError as error:
                console.note(f"gguf, {kind}: not measured: {error}")
                continue
            read_gguf(loaded.model, file)
        ask(kind, loaded)


def _kinds() -> tuple[str, ...]:
    """Without the tool no model is loaded for its formats, nor written unrounded: that may be many gigabytes."""
    try:
        tool()
    except InputError as error:
        console.note(f"gguf, {', '.join(LLAMA_CPP_KINDS)}: not measured: {error}")
        return KINDS
    return (*KINDS, *LLAMA_CPP_KINDS)


def _written(model: Any, folder: Path, kind: str) -> Path:
    file = folder / "model.gguf"
    if kind in KINDS:
        write_gguf(model, file, kind)
        return file
    whole = folder / "whole.gguf"
    write_gguf(model, whole, UNROUNDED[model.dtype])
    quantise(whole, file, kind)
    whole.unlink()
    return file


AUDITS.add(
    "gguf",
    Audit(
        "gguf",
        "GGUF round trip",
        "precision",
        "arXiv 2410.16454",
        "merged weights written to a GGUF file and read back: Q8_0, Q4_0, by llama.cpp Q4_K_M",
        changes=_changes,
    ),
)
