"""Generate answers with vLLM on the GPU (`generate.backend: vllm`), from a copy of the model with its adapter merged.

vLLM uses other kernels, so compare answers of one backend only. In float32, with the CPU build of vLLM 0.32, answers
equalled those of `decoding`, with an adapter too. On a GPU this is untested (docs/many-gpus.md).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from relearn.core.config import Generate, Model
from relearn.core.errors import InputError
from relearn.engine.model_support import bare
from relearn.models.load import Loaded, check_backend

# Share of the free GPU memory for vLLM. The rest is for the loaded model, which computes the log-probabilities.
_SHARE_OF_FREE = 0.5
_SHORTEST = 2048


@dataclass
class _Engine:
    """Store a running vLLM engine, the state of its weights, and its maximum tokens of prompt and answer."""

    state: tuple[Any, ...]
    tokens: int
    llm: Any


_ENGINES: WeakKeyDictionary[Any, _Engine] = WeakKeyDictionary()


def vllm_answers(
    loaded: Loaded, prompts: Sequence[list[int]], settings: Generate, *, keys: Sequence[str], stops: Sequence[int]
) -> list[list[int]]:
    """Generate the tokens of every answer with vLLM. `keys`: one text per question, hashed into its random seed.

    Raises InputError for 4-bit weights, for inference-time methods and without a GPU. Raises MissingPartError without
    the package vllm.
    """
    check_vllm(loaded)
    if not prompts:
        return []
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

    longest = max(map(len, prompts)) + settings.max_new_tokens
    penalty = getattr(getattr(bare(loaded.model), "generation_config", None), "repetition_penalty", None) or 1.0
    params = [
        SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k or -1,
            max_tokens=settings.max_new_tokens,
            stop_token_ids=list(stops),
            repetition_penalty=penalty,
            seed=_seed(key),
            detokenize=False,
        )
        for key in keys
    ]
    outputs = _engine(loaded, longest, settings).generate(
        [{"prompt_token_ids": list(prompt)} for prompt in prompts], params, use_tqdm=False
    )
    return [_without_stop(list(output.outputs[0].token_ids), stops) for output in outputs]


def check_vllm(loaded: Loaded) -> None:
    """Raise InputError unless vLLM is installed and can run this model.

    A missing package raises MissingPartError.
    """
    model = bare(loaded.model)
    if getattr(model, "takes_rows", False):
        raise InputError(
            "vLLM runs weights alone, and this method changes none",
            where="generate.backend",
            way_out="backend: transformers",
        )
    embeddings = model.get_input_embeddings(), model.get_output_embeddings()
    if model.config.get_text_config().tie_word_embeddings and any(hasattr(one, "base_layer") for one in embeddings):
        raise InputError(
            "vLLM runs tied embeddings as one matrix, and here one of them has an adapter",
            where="generate.backend",
            way_out="backend: transformers",
        )
    quantised = getattr(model, "quantization_method", None) is not None
    check_backend(Generate(backend="vllm"), Model(name=loaded.name, quantization="nf4" if quantised else "none"))


def merged_weights(model: Any) -> dict[str, torch.Tensor]:
    """Compute the weights of the bare model with all active adapters merged; the model itself is not changed."""
    from peft.tuners.lora import LoraLayer

    inner = bare(model)
    adapted: dict[str, list[Any]] = {}
    for name, module in inner.named_modules():
        if isinstance(module, LoraLayer):
            # Experts have one wrapper per matrix, which lie inside each other; a linear layer has its weight.
            weight = f"{name}.{getattr(module, 'parameter_name', 'weight')}".replace(".base_layer", "")
            adapted.setdefault(weight, []).append(module)
    merged = {}
    for name, weight in inner.state_dict().items():
        plain = name.replace(".base_layer", "")
        if ".lora_" not in name:
            merged[plain] = weight + sum(_adapter_delta(layer) for layer in adapted.get(plain, []))
    return merged


def _adapter_delta(layer: Any) -> torch.Tensor | float:
    """Compute the sum of the active adapters' changes to a layer's weight."""
    if layer.disable_adapters or layer.merged:
        return 0.0
    own = {*layer.lora_A, *layer.lora_embedding_A}
    deltas = [layer.get_delta_weight(name) for name in layer.active_adapters if name in own]
    return torch.stack(deltas).sum(0) if deltas else 0.0


def _engine(loaded: Loaded, longest: int, settings: Generate) -> Any:
    """Return the vLLM engine of a model; start a new one (about a minute) if weights or lengths have changed."""
    model = bare(loaded.model)
    state = _state(model)
    engine = _ENGINES.get(model)
    if engine is None or engine.state != state or engine.tokens < longest:
        _ENGINES.pop(model, None)
        del engine
        tokens = max(_SHORTEST, longest)
        _ENGINES[model] = _Engine(state, tokens, _start(loaded, tokens, settings))
    return _ENGINES[model].llm


def _state(model: Any) -> tuple[Any, ...]:
    """Return a value that changes when a weight is written or an adapter is enabled or disabled."""
    disabled = tuple(module.disable_adapters for module in model.modules() if hasattr(module, "disable_adapters"))
    return (sum(weight._version for weight in model.parameters()), disabled)


def _start(loaded: Loaded, tokens: int, settings: Generate) -> Any:
    from vllm import LLM  # pyright: ignore[reportMissingImports]

    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    model = bare(loaded.model)
    limits = {"max_num_seqs": settings.batch_size} if settings.batch_size else {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, state_dict=merged_weights(model), safe_serialization=True)
        loaded.tokenizer.save_pretrained(folder)
        return LLM(
            model=folder,
            dtype=str(model.dtype).removeprefix("torch."),
            max_model_len=tokens,
            gpu_memory_utilization=_SHARE_OF_FREE * free / total,
            enable_prefix_caching=True,
            **limits,
        )


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")


def _without_stop(tokens: list[int], stops: Sequence[int]) -> list[int]:
    return tokens[:-1] if tokens and tokens[-1] in stops else tokens
