"""Format questions and answers with the model's chat template, or as "Question: ... Answer:" without a template.

Training, generation and scoring use the same format. This module also decides which tokens end an answer, and which
part of a model's output is its thoughts (`THOUGHTS`).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any
from unittest import mock

from relearn.core.errors import InputError
from relearn.data import Form

# Questions and answers of a conversation, in order.
History = Sequence[tuple[str, str]]
# Placeholder answer; the rendered text before and after it is the template text around an answer.
_MARK = "relearn-answer-mark"
_QUESTION = "relearn-question-mark"
# Markers around the thoughts of reasoning models: opening, closing, models that use them.
THOUGHTS = (
    ("<think>", "</think>", "Qwen3, DeepSeek-R1, QwQ, SmolLM3, GLM-4.5, Nemotron"),
    ("<thinking>", "</thinking>", "Reflection and models trained on the same format"),
    ("<thought>", "</thought>", "EXAONE Deep, Sky-T1"),
    ("<reasoning>", "</reasoning>", "models trained with GRPO recipes"),
    ("[THINK]", "[/THINK]", "Magistral"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>", "gpt-oss"),
    ("<|START_THINKING|>", "<|END_THINKING|>", "Command A Reasoning"),
    ("<|begin_of_thought|>", "<|end_of_thought|>", "OpenThinker"),
    ("<|inner_prefix|>", "<|inner_suffix|>", "Apertus"),
    ("<seed:think>", "</seed:think>", "Seed-OSS"),
    ("◁think▷", "◁/think▷", "Kimi"),
)
_OPEN = "|".join(re.escape(opening) for opening, _, _ in THOUGHTS)
_CLOSE = "|".join(re.escape(closing) for _, closing, _ in THOUGHTS)
_BLOCK = re.compile("|".join(rf"{re.escape(first)}.*?(?:{re.escape(last)}|\Z)" for first, last, _ in THOUGHTS), re.S)
_FINISHED = re.compile(rf"(?:{_CLOSE})\Z")
_LAST_CLOSE = re.compile(rf".*(?:{_CLOSE})\s*", re.S)
# Granite puts its answer after the thoughts into a tag of its own.
_TAGGED = re.compile(r"\s*<response>(.*?)(?:</response>.*)?", re.S)
_OPENED = re.compile(rf"(?:{_OPEN})\s*\Z")
# Added special tokens with these names end a turn, whether or not the template uses them.
_TURN_END = re.compile(
    r"</s>|[<\[][|｜]?(?:end|eot|eot_id|eom|eom_id|im_end|end_of_turn|end_of_turn_token|endofturn|endoftext|end_of_text|"
    r"end[_▁]of[_▁]sentence|end_of_message|eos|eod|return)[|｜]?[>\]]",
    re.IGNORECASE,
)
_TURN_ENDS_THOUGHT = "<|channel|>"  # In the format of gpt-oss, <|end|> also ends a thought.


@dataclass(frozen=True)
class ChatFormat:
    """Format prompts and answers.

    `glue`: text between prompt and answer, which is learned; `end`: end-of-turn text. `opening`: text between prompt
    and answer that is not learned, because it only ends or skips the thoughts of a reasoning model. `thinking`: on, off
    or auto. `day`: the date for templates that contain today's date. `name`: the model, for messages.
    """

    tokenizer: Any
    use_template: bool
    system_prompt: str | None
    glue: str
    end: str
    opening: str = ""
    thinking: str = "auto"
    day: date | None = None
    name: str = "the model"

    def prompt(self, question: str, form: Form, history: History = ()) -> str:
        """Format a question as a prompt; with form "text", the prompt is the question without a template.

        `history`: the earlier questions of the conversation and their answers.
        """
        if form == "text":
            return self._bos + question
        if not self.use_template:
            earlier = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in history)
            return f"{self._bos}{earlier}Question: {question}\nAnswer:"
        rendered = self.render(_messages(self.system_prompt, question, history))
        return rendered + self.opening if self.thinking == "off" else rendered

    def answer_prompt(self, question: str, form: Form, history: History = ()) -> str:
        """Format a question as a prompt that the answer itself follows, without thoughts; a given answer is put here.

        The thoughts are empty, as the template writes them. They are part of the prompt, so that neither a loss nor a
        score contains them.
        """
        skipped = "" if form == "text" or self.thinking == "off" else self.opening
        return self.prompt(question, form, history) + skipped

    def target(self, answer: str, form: Form, *, closed: bool = True) -> str:
        """Format an answer; `closed` appends the end-of-turn text."""
        glue = self.glue if form == "chat" else " "
        return f"{glue}{answer}{self.end if closed else ''}"

    def render(self, messages: list[dict[str, str]], *, generate: bool = True) -> str:
        """Apply the chat template; `generate` adds the beginning of the model's turn.

        Raises InputError, with the template's own message, for a template that cannot be applied.
        """
        from jinja2 import TemplateError

        thinks = (
            {} if self.thinking == "auto" else dict.fromkeys(("enable_thinking", "thinking"), self.thinking == "on")
        )
        try:
            with _clock_set_to(self.day):
                return self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=generate, **thinks
                )
        except (
            TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise self.refusal(f"cannot be applied: {str(error).strip()[:200] or type(error).__name__}") from None

    def refusal(self, problem: str, way_out: str = "mend the template, or model.chat_template: none") -> InputError:
        return InputError(problem, where=f"chat template of {self.name}", way_out=way_out)

    @property
    def _bos(self) -> str:
        adds_bos = self.tokenizer("x").input_ids[:1] == [self.tokenizer.bos_token_id]
        return self.tokenizer.bos_token if adds_bos and self.tokenizer.bos_token else ""


def chat_format(
    tokenizer: Any,
    *,
    template: str = "auto",
    system_prompt: str | None = None,
    thinking: str = "auto",
    day: date | None = None,
    ends: Collection[int] = (),
    name: str = "the model",
) -> ChatFormat:
    """Derive the chat format from the tokenizer's chat template; `template` "none" ignores the template.

    `ends`: token ids that end an answer by the model's own settings. `day`: None is today. Raises InputError for a
    template that cannot be applied, or that leaves out the question, the answer or the system prompt.
    """
    eos = tokenizer.eos_token or ""
    if template == "none" or not tokenizer.chat_template:
        return ChatFormat(tokenizer, False, None, " ", eos, name=name)
    chat = ChatFormat(tokenizer, True, system_prompt, "", eos, thinking=thinking, day=day or date.today(), name=name)
    if isinstance(named := tokenizer.chat_template, dict) and "default" not in named:
        raise chat.refusal(f"none of the templates {', '.join(sorted(named))} is the default")
    prompt, dialogue = _sample_dialogue(chat)
    before, _, after = dialogue.partition(_MARK)
    between = before[len(prompt) :] if before.startswith(prompt) else ""
    opening, glue = _split_opening(prompt, between)
    return replace(chat, glue=glue, opening=opening, end=_template_end(chat, after, ends) or eos)


def _sample_dialogue(chat: ChatFormat) -> tuple[str, str]:
    """Render a prompt, and the same question with an answer. Raises InputError if the template leaves out a part."""
    messages = _messages(chat.system_prompt, _QUESTION)
    try:
        prompt = chat.render(messages)
    except InputError:
        if chat.system_prompt is None:
            raise
        chat.render(messages[1:])  # Raises if the system prompt is not the reason.
        raise chat.refusal(
            "takes no system prompt", "leave out model.system_prompt, or model.chat_template: none"
        ) from None
    dialogue = chat.render([*messages, {"role": "assistant", "content": _MARK}], generate=False)
    if chat.system_prompt and chat.system_prompt.strip() not in prompt:
        way_out = "leave out model.system_prompt, or model.chat_template: none"
        raise chat.refusal("leaves out the system prompt", way_out)
    if _QUESTION not in prompt or _MARK not in dialogue:
        raise chat.refusal(f"leaves out the {'answer' if _QUESTION in prompt else 'question'}")
    return prompt, dialogue


def _split_opening(prompt: str, between: str) -> tuple[str, str]:
    """Split the template text between prompt and answer into the part that ends or skips thoughts, and the rest."""
    if match := _LAST_CLOSE.match(between):
        return match[0], between[match.end() :]
    if (opened := _OPENED.search(prompt)) and (closing := _closing(opened[0].strip())):
        # The template of a dialogue leaves thoughts out, so that they must be ended here.
        return f"\n{closing}\n\n", ""
    return "", between


def _closing(opening: str) -> str:
    return next(closing for first, closing, _ in THOUGHTS if first == opening)


def _template_end(chat: ChatFormat, after: str, ends: Collection[int]) -> str | None:
    """Return what the template writes after an answer, up to its first control token.

    Some templates (GLM) write nothing there: the next turn's first token ends the answer, if it is one of `ends`.
    """
    controls = control_tokens(chat.tokenizer)
    if end := _first_of(controls, after):
        return end
    roles = ("user", "assistant", "user")
    turns = [{"role": role, "content": text} for role, text in zip(roles, (_QUESTION, _MARK, _QUESTION), strict=True)]
    try:
        follows = chat.render(turns, generate=False).partition(_MARK)[2]
    except InputError:
        return None
    token = _first_of(controls, follows)
    return token if token and chat.tokenizer.convert_tokens_to_ids(token.strip()) in ends else None


def _messages(system_prompt: str | None, question: str, history: History = ()) -> list[dict[str, str]]:
    system = [] if system_prompt is None else [("system", system_prompt)]
    turns = [(role, text) for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)]
    return [{"role": role, "content": text} for role, text in (*system, *turns, ("user", question))]


def _first_of(tokens: Collection[str], text: str) -> str | None:
    """Return `text` up to and including the first of `tokens` in it, or None."""
    ends = [text.index(token) + len(token) for token in tokens if token in text]
    return text[: min(ends)] if ends else None


@contextmanager
def _clock_set_to(day: date | None) -> Iterator[None]:
    """Let a template's `strftime_now` give `day` inside the block; transformers passes no function to a template."""
    from transformers.utils import chat_template_utils

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            assert day is not None
            return datetime(day.year, day.month, day.day, tzinfo=tz)

    if day is None:
        yield
    else:
        with mock.patch.object(chat_template_utils, "datetime", Clock):
            yield


def control_tokens(tokenizer: Any) -> set[str]:
    """List the texts of all tokens that control a dialogue: special tokens, and added tokens around thoughts."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    markers = {marker for first, last, _ in THOUGHTS for marker in (first, last)}
    controls = {token.content for token in added if token.special or token.content in markers}
    return {token for token in {*tokenizer.all_special_tokens, *controls} if token.strip()}


def turn_ends(tokenizer: Any) -> set[int]:
    """List the ids of added special tokens that end a turn by their name ("<end_of_turn>", "<|eot_id|>", ...)."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ends = {number: token.content for number, token in added.items() if token.special}
    ends = {number: text for number, text in ends.items() if _TURN_END.fullmatch(text)}
    if any(token.content == _TURN_ENDS_THOUGHT for token in added.values()):
        ends = {number: text for number, text in ends.items() if text != "<|end|>"}
    return set(ends)


def opened_thought(prompt: str) -> str:
    """Return the marker of the thought that a prompt ends in, which the model then continues; "" if there is none."""
    opened = _OPENED.search(prompt)
    return opened[0].strip() if opened else ""


def split_thoughts(text: str, *, opened: str = "") -> tuple[str, bool]:
    """Remove the thoughts from a model's output; return the answer, and whether the output ended inside a thought.

    `opened`: the marker of the thought that the prompt ends in. An output that ends in its first thought has no answer.
    """
    if not opened and is_part_of_opening(text.strip()):
        return "", True
    blocks = [match[0] for match in _BLOCK.finditer(opened + text)]
    answer = _BLOCK.sub("", opened + text)
    if closed := _LAST_CLOSE.match(answer):
        answer = answer[closed.end() :]
    if blocks and (tagged := _TAGGED.fullmatch(answer)):
        answer = tagged[1]
    unfinished = any(_FINISHED.search(block) is None for block in blocks)
    return answer, unfinished and not answer.strip()


def is_part_of_opening(text: str) -> bool:
    """Return whether an output was cut off inside the marker that opens its thoughts."""
    return len(text) > 2 and any(opening != text and opening.startswith(text) for opening, _, _ in THOUGHTS)


def without_thoughts(tokenizer: Any, tokens: Sequence[int], *, opened: str = "") -> tuple[str, bool, int]:
    """Decode an output without thoughts and special tokens.

    Returns the answer, whether the output ended inside a thought, and the number of tokens of the thoughts.
    """
    tokens = list(tokens)
    whole = tokenizer.decode(tokens)
    answer, cut_off = split_thoughts(whole, opened=opened)
    if cut_off:
        return "", True, len(tokens)
    if answer == whole:
        return tokenizer.decode(tokens, skip_special_tokens=True).strip(), False, 0
    thought = len(whole) - len(answer) if whole.endswith(answer) else 0
    count = bisect_left(range(len(tokens)), thought, key=lambda number: len(tokenizer.decode(tokens[:number])))
    for control in control_tokens(tokenizer):
        answer = answer.replace(control, "")
    return answer.strip(), False, count
