"""Metrics: answers on disk in, numbers with intervals out, without the model that gave the answers."""
