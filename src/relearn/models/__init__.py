"""Load models and tokenizers, format chat prompts, add LoRA adapters, gather sharded weights."""
