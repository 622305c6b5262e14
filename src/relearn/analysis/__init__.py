"""Analyse a model from inside: where it holds an answer, layer by layer, before and after unlearning."""
