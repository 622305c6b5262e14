"""Compute metrics with intervals from saved answers, without the model that generated them."""
