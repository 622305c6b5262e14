"""Send prompts to a language model or to templates: Prompt -> Completer (cache, budget) -> Completion."""

from relearn.llm.completer import Completer, Completion, Prompt

__all__ = ["Completer", "Completion", "Prompt"]
