"""Implement unlearning at inference time, without a change of the weights: offset logits, corrupted prompts."""
