"""Have prompts answered by a language model or by templates: Prompt -> Completer (cache, budget) -> Completion."""

from relearn.llm.completer import Completer, Completion, Prompt

__all__ = ["Completer", "Completion", "Prompt"]
