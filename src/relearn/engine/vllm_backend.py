"""`generate.backend: vllm`: a copy of the model in memory, its adapter folded in, answers in vLLM's engine on the GPU.

The answers are those of other kernels: compare only within one backend. In float32 they were the same as here, adapter
and all, with vLLM 0.32's build for CPUs; on a GPU the engine was not tried yet (docs/many-gpus.md). That the weights
handed over are whole has tests.
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

# The rest of the free memory is for the log-probabilities, which the model in memory goes on to compute.
_SHARE_OF_FREE = 0.5
_SHORTEST = 2048


@dataclass
class _Engine:
    """vLLM with the weights as they were (`state`), for prompts with answers of up to `tokens` tokens."""

    state: tuple[Any, ...]
    tokens: int
    llm: Any


_ENGINES: WeakKeyDictionary[Any, _Engine] = WeakKeyDictionary()


def answers_of_vllm(
    loaded: Loaded, prompts: Sequence[list[int]], settings: Generate, keys: Sequence[str], stops: Sequence[int]
) -> list[list[int]]:
    """The tokens of every answer. `keys`: one per question, what its seed is made of.

    Raises InputError for a model whose answers are not those of its weights, MissingPartError without GPU or vLLM.
    """
    check_vllm(loaded)
    if not prompts:
        return []
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

    longest = max(map(len, prompts)) + settings.max_new_tokens
    penalty = getattr(getattr(bare(loaded.model), "generation_config", None), "repetition_penalty", None) or 1.0
    asked = [
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
        [{"prompt_token_ids": list(prompt)} for prompt in prompts], asked, use_tqdm=False
    )
    return [_without_stop(list(output.outputs[0].token_ids), stops) for output in outputs]


def check_vllm(loaded: Loaded) -> None:
    """Whether vLLM is here and can speak for this model."""
    model = bare(loaded.model)
    if getattr(model, "takes_rows", False):
        raise InputError(
            "vLLM runs weights, and this method changes none", where="generate.backend", way_out="backend: transformers"
        )
    quantised = getattr(model, "quantization_method", None) is not None
    check_backend(Generate(backend="vllm"), Model(name=loaded.name, quantization="nf4" if quantised else "none"))


def whole_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights of the bare model with every adapter in use added to them; the model itself is not touched."""
    from peft.tuners.lora import LoraLayer

    inner = bare(model)
    adapted = {name: module for name, module in inner.named_modules() if isinstance(module, LoraLayer)}
    found = {}
    for name, weight in inner.state_dict().items():
        place, _, rest = name.partition(".base_layer.")
        if rest:
            found[f"{place}.{rest}"] = weight + _added(adapted[place]) if rest == "weight" else weight
        elif not any(name.startswith(f"{other}.") for other in adapted):
            found[name] = weight
    return found


def _added(layer: Any) -> torch.Tensor | float:
    """What the adapters of a layer add to its weight."""
    if layer.disable_adapters or layer.merged:
        return 0.0
    deltas = [layer.get_delta_weight(name) for name in layer.active_adapters if name in layer.lora_A]
    return torch.stack(deltas).sum(0) if deltas else 0.0


def _engine(loaded: Loaded, longest: int, settings: Generate) -> Any:
    """One engine per model for as long as its weights stay as they are; starting one takes about a minute."""
    model = bare(loaded.model)
    state = _state(model)
    held = _ENGINES.get(model)
    if held is None or held.state != state or held.tokens < longest:
        _ENGINES.pop(model, None)
        del held
        tokens = max(_SHORTEST, longest)
        _ENGINES[model] = _Engine(state, tokens, _started(loaded, tokens, settings))
    return _ENGINES[model].llm


def _state(model: Any) -> tuple[Any, ...]:
    """Changes whenever a weight is written to or an adapter is switched."""
    switched = tuple(module.disable_adapters for module in model.modules() if hasattr(module, "disable_adapters"))
    return (sum(weight._version for weight in model.parameters()), switched)


def _started(loaded: Loaded, tokens: int, settings: Generate) -> Any:
    from vllm import LLM  # pyright: ignore[reportMissingImports]

    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    model = bare(loaded.model)
    more = {"max_num_seqs": settings.batch_size} if settings.batch_size else {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, state_dict=whole_weights(model), safe_serialization=True)
        loaded.tokenizer.save_pretrained(folder)
        return LLM(
            model=folder,
            dtype=str(model.dtype).removeprefix("torch."),
            max_model_len=tokens,
            gpu_memory_utilization=_SHARE_OF_FREE * free / total,
            enable_prefix_caching=True,
            **more,
        )


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")


def _without_stop(tokens: list[int], stops: Sequence[int]) -> list[int]:
    return tokens[:-1] if tokens and tokens[-1] in stops else tokens
