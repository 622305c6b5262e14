"""Unlearning methods: losses, data streams, masks, the training loop, inference-time methods."""
