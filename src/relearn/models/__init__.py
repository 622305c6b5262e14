"""Load models and tokenizers, chat templates, LoRA, sharded weights."""
