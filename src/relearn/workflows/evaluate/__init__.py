"""Evaluate two models, one model, or files of answers without a run (`relearn evaluate`)."""
