"""Generators of text behind one small protocol, with an answer cache in front."""

from relearn.llm.completer import Completer, Completion, Prompt

__all__ = ["Completer", "Completion", "Prompt"]
