"""Normalise texts, and find typed spans, subjects and entities in them."""
