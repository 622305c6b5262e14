"""Run a causal language model: packed forward passes, KV-cache decoding, sampling, backends."""
