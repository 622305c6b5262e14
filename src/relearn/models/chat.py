"""Format questions and answers with the model's chat template, or as "Question: ... Answer:" without a template.

Training, generation and scoring use the same format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relearn.data import Form

# Placeholder answer; the rendered text before and after it is the template text around an answer.
_MARK = "relearn-answer-mark"


@dataclass(frozen=True)
class ChatFormat:
    """Format prompts and answers. `glue`: text between prompt and answer; `end`: end-of-turn text."""

    tokenizer: Any
    use_template: bool
    system_prompt: str | None
    glue: str
    end: str

    def prompt(self, question: str, form: Form) -> str:
        """Format a question as a prompt; with form "text", the prompt is the question without a template."""
        if form == "text":
            return self._bos + question
        if not self.use_template:
            return f"{self._bos}Question: {question}\nAnswer:"
        return _render(self.tokenizer, _messages(self.system_prompt, question), generate=True)

    def target(self, answer: str, form: Form, *, closed: bool = True) -> str:
        """Format an answer; `closed` appends the end-of-turn text."""
        glue = self.glue if form == "chat" else " "
        return f"{glue}{answer}{self.end if closed else ''}"

    @property
    def _bos(self) -> str:
        adds_bos = self.tokenizer("x").input_ids[:1] == [self.tokenizer.bos_token_id]
        return self.tokenizer.bos_token if adds_bos and self.tokenizer.bos_token else ""


def chat_format(tokenizer: Any, *, template: str = "auto", system_prompt: str | None = None) -> ChatFormat:
    """Derive the chat format from the tokenizer's chat template; `template` "none" ignores the template."""
    eos = tokenizer.eos_token or ""
    if template == "none" or not tokenizer.chat_template:
        return ChatFormat(tokenizer, False, None, " ", eos)
    messages = _messages(system_prompt, "question")
    prompt = _render(tokenizer, messages, generate=True)
    dialogue = _render(tokenizer, [*messages, {"role": "assistant", "content": _MARK}], generate=False)
    before, _, after = dialogue.partition(_MARK)
    glue = before[len(prompt) :] if before.startswith(prompt) else ""
    return ChatFormat(tokenizer, True, system_prompt, glue, _first_special(tokenizer, after) or eos)


def _messages(system_prompt: str | None, question: str) -> list[dict[str, str]]:
    user = {"role": "user", "content": question}
    return [user] if system_prompt is None else [{"role": "system", "content": system_prompt}, user]


def _render(tokenizer: Any, messages: list[dict[str, str]], *, generate: bool) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)


def _first_special(tokenizer: Any, text: str) -> str | None:
    """Return `text` up to and including its first special token, or None if it has no special token."""
    ends = [text.index(token) + len(token) for token in tokenizer.all_special_tokens if token in text]
    return text[: min(ends)] if ends else None
