"""Loss functions, one file per family."""
