"""Which tokens are answer tokens is decided here and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.core.errors import InputError
from relearn.data import Record
from relearn.models.chat import chat_format
from relearn.unlearning.data.encode import Example, encode, record_example
from tiny import build_tiny_tokenizer

TOKENIZER = build_tiny_tokenizer()
CHAT = chat_format(TOKENIZER)
PLAIN = chat_format(TOKENIZER, template="none")

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(
    str.strip
)


@settings(max_examples=60, deadline=None)
@given(question=words, answer=words, closed=st.booleans())
@pytest.mark.parametrize("chat", [CHAT, PLAIN], ids=["template", "plain"])
def test_prompt_tokens_are_what_generation_is_given(chat, question, answer, closed):
    row = encode(chat, [Example("a", question, answer, closed=closed)])[0]
    prompt = TOKENIZER(chat.prompt(question, "chat"), add_special_tokens=False).input_ids
    assert list(row.ids[: row.answer_start]) == prompt
    said = TOKENIZER.decode(row.answer_ids)
    assert said == f"{chat.glue}{answer}{chat.end if closed else ''}"


def test_template_is_the_models_own_and_the_answer_ends_the_turn():
    row = encode(CHAT, [Example("a", "Who?", "The teacher.")])[0]
    assert (
        TOKENIZER.decode(row.ids) == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nThe teacher.<|im_end|>"
    )
    assert TOKENIZER.decode(row.answer_ids) == "The teacher.<|im_end|>"


def test_system_prompt_stands_first():
    chat = chat_format(TOKENIZER, system_prompt="Be brief.")
    assert chat.prompt("Who?", "chat").startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?")


def test_text_rows_have_no_template_and_no_question_mark_up():
    row = encode(CHAT, [Example("a", "The teacher lives", "in a quiet street.", form="text")])[0]
    assert TOKENIZER.decode(row.ids) == "The teacher lives in a quiet street.<|im_end|>"
    assert TOKENIZER.decode(row.answer_ids) == " in a quiet street.<|im_end|>"


def test_a_passage_is_not_closed():
    row = encode(CHAT, [record_example(Record("The teacher lives", "in a quiet", form="text"))])[0]
    assert TOKENIZER.decode(row.ids) == "The teacher lives in a quiet"


def test_nothing_is_truncated():
    """Trap 6: a row over the limit is an error, never an answer without its end."""
    with pytest.raises(InputError, match=r"row long has \d+ tokens, the limit is 16"):
        encode(CHAT, [Example("long", "Who?", "word " * 50)], max_length=16)


def test_training_and_asking_use_one_template():
    """Trap 7: the prompt of a training row is the prompt that is generated from, to the letter."""
    row = encode(CHAT, [Example("a", "What is the name?", "It is")])[0]
    assert TOKENIZER.decode(row.ids[: row.answer_start]) == CHAT.prompt("What is the name?", "chat")
