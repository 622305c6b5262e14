"""How a question becomes a prompt: the model's own chat template, or a plain form where it has none.

Training, generation and scoring all come through here, so a model is asked exactly as it was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relearn.data import Form

_MARK = "relearn-answer-mark"


@dataclass(frozen=True)
class ChatFormat:
    """Prompt and answer as text. `glue` stands between prompt and answer, `end` closes an answer (a special token)."""

    tokenizer: Any
    use_template: bool
    system_prompt: str | None
    glue: str
    end: str

    def prompt(self, question: str, form: Form) -> str:
        """The text the model is given; a "text" row is its bare prefix."""
        if form == "text":
            return self._bos + question
        if not self.use_template:
            return f"{self._bos}Question: {question}\nAnswer:"
        return _render(self.tokenizer, self._messages(question), generate=True)

    def target(self, answer: str, form: Form, *, closed: bool = True) -> str:
        """The text the model is to give; `closed` appends the end of turn."""
        glue = self.glue if form == "chat" else " "
        return f"{glue}{answer}{self.end if closed else ''}"

    def _messages(self, question: str) -> list[dict[str, str]]:
        return _messages(self.system_prompt, question)

    @property
    def _bos(self) -> str:
        adds_bos = self.tokenizer("x").input_ids[:1] == [self.tokenizer.bos_token_id]
        return self.tokenizer.bos_token if adds_bos and self.tokenizer.bos_token else ""


def chat_format(tokenizer: Any, *, template: str = "auto", system_prompt: str | None = None) -> ChatFormat:
    """Read from the tokenizer's template what stands before, between and after; `template` "none" ignores it."""
    eos = tokenizer.eos_token or ""
    if template == "none" or not tokenizer.chat_template:
        return ChatFormat(tokenizer, False, None, " ", eos)
    messages = _messages(system_prompt, "question")
    opened = _render(tokenizer, messages, generate=True)
    whole = _render(tokenizer, [*messages, {"role": "assistant", "content": _MARK}], generate=False)
    before, _, after = whole.partition(_MARK)
    glue = before[len(opened) :] if before.startswith(opened) else ""
    return ChatFormat(tokenizer, True, system_prompt, glue, _first_special(tokenizer, after) or eos)


def _messages(system_prompt: str | None, question: str) -> list[dict[str, str]]:
    asked = {"role": "user", "content": question}
    return [asked] if system_prompt is None else [{"role": "system", "content": system_prompt}, asked]


def _render(tokenizer: Any, messages: list[dict[str, str]], *, generate: bool) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)


def _first_special(tokenizer: Any, text: str) -> str | None:
    """Everything up to and including the first special token of `text`, as it closes a turn."""
    ends = [text.index(token) + len(token) for token in tokenizer.all_special_tokens if token in text]
    return text[: min(ends)] if ends else None
