"""A recipe becomes stages, in order, each skipped when its outputs are complete (`order.py`)."""
