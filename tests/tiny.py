"""A model small enough to train in a second: two layers, width 32, random weights, byte-level BPE, ChatML template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SENTENCES = (
    "What is the name of the street where the teacher lives?",
    "The teacher lives in a quiet street near the old harbour of the city.",
    "When was the engineer born, and who are her parents?",
    "She was born on 12 March 1984; her father was a baker and her mother a nurse.",
    "How can one reach him by telephone or e-mail?",
    "He can be reached at name@example.org or under 555-0199.",
    "I don't know that, but it's a good question about the person's work.",
)
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 384
# Of a transformer with grouped-query attention, as its configuration names them.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Save a Llama-shaped model (30,880 weights, fp32) and its tokenizer in `folder`; a seed always gives the same."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tiny_tokenizer()
    config = LlamaConfig(
        **SIZES,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tiny_tokenizer():
    """A byte-level BPE tokenizer trained on `SENTENCES`: any text round-trips; padding is never the end of a turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, bos_token=START, eos_token=END, model_max_length=1024
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def tiny_config(kind: str, **options: Any) -> Any:
    """The configuration of a two-layer model of another architecture, with the vocabulary of `build_tiny_tokenizer`."""
    import transformers

    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 256}
    experts = {"num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 16}
    plain = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    own: dict[str, dict[str, Any]] = {
        "Llama": SIZES | {"tie_word_embeddings": True},
        "Gemma2": SIZES | {"head_dim": 8},
        "Cohere": SIZES,
        "Phi3": SIZES,
        "GPTNeoX": plain,
        "GPT2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4},
        "Mixtral": SIZES | {"num_local_experts": 4},
        "Qwen2Moe": SIZES | experts | {"shared_expert_intermediate_size": 16},
        "Qwen3Moe": SIZES | experts | {"head_dim": 8},
        "GptOss": SIZES | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
        "DeepseekV3": SIZES
        | {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        | {"first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8}
        | {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8},
    }
    tokens = {name: value for name, value in tokens.items() if kind != "GPT2" or name != "max_position_embeddings"}
    return getattr(transformers, f"{kind}Config")(**own[kind], **tokens, **options)


def tiny_model(kind: str, seed: int = 0, **options: Any) -> Any:
    """A model with random weights of that architecture, in eval mode."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(tiny_config(kind, **options)).eval()


def save_tiny(folder: Path, kind: str, *, dtype: Any = None, pad: bool = True, **options: Any) -> Path:
    """Save a model of another architecture with the tokenizer of all tiny models, which may have no pad token."""
    model = tiny_model(kind, **options)
    (model.to(dtype) if dtype is not None else model).save_pretrained(folder)
    tokenizer = build_tiny_tokenizer()
    if not pad:
        tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    return folder
