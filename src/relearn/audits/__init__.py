"""Audit unlearning: attack a model with other prompts, changed weights and hidden-state probes, and judge each fact."""
