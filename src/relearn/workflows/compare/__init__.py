"""Compare unlearning methods on the same records, start model and training budget (`relearn compare`)."""
