"""Decide whether a text gives a secret away."""
