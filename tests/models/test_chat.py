"""Templates as published models have them: where an answer ends, what is thought, what cannot be applied."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.core.config import Model
from relearn.core.errors import InputError
from relearn.data import Record
from relearn.data.validation import check_special_tokens
from relearn.models.chat import THOUGHTS, chat_format, control_tokens, split_thoughts, turn_ends, without_thoughts
from relearn.unlearning.data.encode import Example, encode
from tiny import CHATML, build_tiny_tokenizer

LOOP = "{% for m in messages %}"
GEMMA = (
    LOOP + "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' "
    "+ (m['content'] | trim) + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
PHI = (
    LOOP + "{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA = (
    LOOP
    + "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}" + LOOP + "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
GLM = (
    LOOP + "{{ '<|' + m['role'] + '|>\\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
COMMAND_R = (
    LOOP
    + "{{ '<|START_OF_TURN_TOKEN|><|' + ('CHATBOT' if m['role'] == 'assistant' else m['role'] | upper) + '_TOKEN|>' "
    "+ m['content'] + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
QWEN3 = (
    LOOP + "{% if m['role'] == 'assistant' and loop.last %}{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' "
    "+ m['content'] + '<|im_end|>\\n' }}{% else %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
R1 = (
    LOOP + "{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' + m['content'].split('</think>')[-1] "
    "+ '<|im_end|>' }}{% else %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
GPT_OSS = (
    LOOP + "{% if m['role'] == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + '<|return|>' }}"
    "{% else %}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)


def tokenizer_with(template: str, *special: str, eos: str = "<|endoftext|>"):
    """The tiny tokenizer with added special tokens that are in no named role, as published tokenizers have them."""
    from tokenizers import AddedToken

    tokenizer = build_tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.eos_token = eos
    tokenizer.chat_template = template
    return tokenizer


def trained(chat) -> str:
    row = encode(chat, [Example("a", "Who?", "Ned lives there.")])[0]
    return chat.tokenizer.decode(row.answer_ids)


@pytest.mark.parametrize(
    ("template", "special", "end"),
    [
        (GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
        (PHI, ("<|end|>", "<|assistant|>", "<|user|>"), "<|end|>"),
        (LLAMA, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
        (MISTRAL, ("</s>", "[INST]", "[/INST]"), "</s>"),
        (COMMAND_R, ("<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"), "<|END_OF_TURN_TOKEN|>"),
    ],
    ids=["gemma", "phi", "llama", "mistral", "command-r"],
)
def test_a_target_ends_in_the_end_that_the_template_writes(template, special, end):
    tokenizer = tokenizer_with(template, *special)
    assert trained(chat_format(tokenizer)).strip() == f"Ned lives there.{end}"
    assert tokenizer.convert_tokens_to_ids(end) in turn_ends(tokenizer)
    for held in special:
        with pytest.raises(InputError, match="special token"):
            check_special_tokens([Record("Who?", f"Ned {held} lives there.")], control_tokens(tokenizer))


def test_a_template_without_an_end_takes_the_next_turn_where_the_model_ends_there():
    tokenizer = tokenizer_with(GLM, "<|user|>", "<|assistant|>")
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert chat_format(tokenizer, ends=[user]).end == "<|user|>"
    assert chat_format(tokenizer).end == "<|endoftext|>"


def test_a_thought_before_the_answer_is_neither_learned_nor_the_place_of_the_answer():
    for template, prompt in ((QWEN3, "assistant\n"), (R1, "assistant\n<think>\n")):
        chat = chat_format(tokenizer_with(template, eos="<|im_end|>"))
        assert chat.prompt("Who?", "chat").endswith(prompt)
        assert chat.answer_prompt("Who?", "chat").endswith("assistant\n<think>\n\n</think>\n\n")
        assert trained(chat) == "Ned lives there.<|im_end|>"
        quiet = chat_format(chat.tokenizer, thinking="off")
        assert quiet.prompt("Who?", "chat") == quiet.answer_prompt("Who?", "chat") == chat.answer_prompt("Who?", "chat")


def test_channels_of_gpt_oss():
    tokenizer = tokenizer_with(GPT_OSS, "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
    chat = chat_format(tokenizer)
    assert trained(chat) == "Ned lives there.<|return|>"
    ends = tokenizer.convert_ids_to_tokens(sorted(turn_ends(tokenizer)))
    assert "<|return|>" in ends and "<|end|>" not in ends, "<|end|> also ends a thought"
    said = "<|channel|>analysis<|message|>Who is it?<|end|><|start|>assistant<|channel|>final<|message|>Ned."
    tokens = tokenizer(said, add_special_tokens=False).input_ids
    text, cut_off, thought = without_thoughts(tokenizer, tokens)
    assert (text, cut_off, tokenizer.decode(tokens[thought:])) == ("Ned.", False, "Ned.")
    begun = tokenizer("<|channel|>analysis<|message|>Who is", add_special_tokens=False).input_ids
    assert without_thoughts(tokenizer, begun) == ("", True, len(begun))


words = st.text("abc .,\n", max_size=12)


@settings(max_examples=60, deadline=None)
@given(mark=st.sampled_from(THOUGHTS), thought=words, answer=words, opened=st.booleans())
def test_thoughts_are_taken_out_and_one_without_an_end_leaves_no_answer(mark, thought, answer, opened):
    first, last, _ = mark
    said = f"{'' if opened else first}{thought}"
    assert split_thoughts(f"{said}{last}{answer}", opened=first if opened else "")[0].strip() == answer.strip()
    assert split_thoughts(said, opened=first if opened else "") == ("", True)
    assert split_thoughts(answer) == (answer, False)


@pytest.mark.parametrize("mark", THOUGHTS)
def test_an_output_that_ends_inside_the_opening_marker_is_cut_off(mark):
    assert split_thoughts(mark[0][:-1]) == ("", True)
    assert split_thoughts(f"{mark[0][:-1]} is how it begins.") == (f"{mark[0][:-1]} is how it begins.", False)


def test_the_answer_of_granite_comes_without_its_tag():
    assert split_thoughts("<think>Who?</think><response>Ned.</response>") == ("Ned.", False)
    assert split_thoughts("<think>Who?</think><response>Ned") == ("Ned", False)
    assert split_thoughts("<response> is a tag of HTML.") == ("<response> is a tag of HTML.", False)


def test_the_date_of_a_template_is_the_one_it_is_given():
    tokenizer = tokenizer_with("{{ 'Today: ' + strftime_now('%d %b %Y') + '\\n' }}" + CHATML)
    chat = chat_format(tokenizer, day=date(2024, 2, 29))
    assert chat.prompt("Who?", "chat").startswith("Today: 29 Feb 2024\n")
    assert chat_format(tokenizer).prompt("Who?", "chat").startswith(f"Today: {date.today():%d %b %Y}")


@pytest.mark.parametrize(
    ("template", "system_prompt", "problem"),
    [
        (
            LOOP + "{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m['content'] }}{% endfor %}",
            "Terse.",
            "no system prompt.*model.system_prompt",
        ),
        (
            LOOP + "{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}",
            "Terse.",
            "leaves out the system prompt",
        ),
        ({"rag": CHATML, "tool_use": CHATML}, None, "rag, tool_use is the default"),
        (LOOP + "{{ m['content'] }", None, "cannot be applied"),
        (LOOP + "{{ m['content'][0]['text'] }}{% endfor %}", None, "leaves out the question"),
        (LOOP + "{{ 1 / 0 }}{% endfor %}", None, "division by zero"),
        (LOOP + "{{ m['content'] + 1 }}{% endfor %}", None, "cannot be applied"),
    ],
    ids=["no system role", "drops the system role", "named", "syntax", "parts", "arithmetic", "types"],
)
def test_a_template_that_cannot_be_applied_is_one_line_with_the_way_out(template, system_prompt, problem):
    with pytest.raises(InputError, match=problem) as raised:
        chat_format(tokenizer_with(template), system_prompt=system_prompt, name="own")
    assert "chat template of own" in str(raised.value) and "model.chat_template: none" in str(raised.value)


def test_thinking_reads_the_booleans_of_yaml():
    values = [Model.model_validate({"name": "a", "thinking": word}).thinking for word in (True, False, "auto")]
    assert values == ["on", "off", "auto"]
    assert Model(name="a").identity.keys().isdisjoint({"thinking", "date"}), "hashes of version 0.1 hold"
    assert Model(name="a", thinking="off").identity["thinking"] == "off"


@pytest.mark.parametrize("template", [CHATML, None])
def test_a_conversation_is_formatted_turn_by_turn(template):
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = template
    chat = chat_format(tokenizer, system_prompt="Be brief." if template else None)
    turns = [("Who?", "Ann."), ("Where?", "Here.")]
    first, second = (chat.prompt(question, "chat") + chat.target(answer, "chat") for question, answer in turns)
    whole = chat.prompt("When?", "chat", turns)
    positions = [whole.index(text) for text in ("Who?", "Ann.", "Where?", "Here.", "When?")]
    assert positions == sorted(positions) and whole.count("Be brief.") == (template is not None)
    assert whole.endswith(chat.prompt("When?", "chat")[-20:]) and chat.prompt("Who?", "chat", ()) in first
    assert template is None or (whole.startswith(first) and second.split("Where?")[1] in whole)
