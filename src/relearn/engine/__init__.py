"""Run a causal language model: packed forward passes, decoding with a KV cache, sampling, vLLM backend."""
