"""Methods side by side on the same records, from the same start model, with the same budget."""
