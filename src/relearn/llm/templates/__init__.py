"""Offline generator: questions and vague answers from phrase templates."""
