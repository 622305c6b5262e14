"""Analyse hidden states layer by layer before and after unlearning: lenses, patching, circuits, adapter spectra."""
