"""Normalize texts; find spans, subjects and entities in them."""
