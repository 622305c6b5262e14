"""A model's weights as a GGUF file and back: what llama.cpp would hold, by the format's own reference code.

llama.cpp turns query and key rows of Llama-shaped models (its rotary embedding pairs neighbours); that is done on the
way there and undone on the way back. The embeddings and the output layer are kept in Q8_0, matrices whose rows are no
multiple of a block in F16, vectors in F32, as llama.cpp's own tool keeps them finer than the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relearn.core.errors import InputError

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
        raise InputError(f"no GGUF of the architecture {kind!r} is written here", where="audits.gguf",
                         way_out=f"one of {', '.join((*TURNED, *AS_THEY_ARE))}")  # fmt: skip
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
