"""Define the loss functions of unlearning methods, one file per family."""
