"""Implement unlearning methods: losses, data streams, weight masks, the training loop, inference-time methods."""
